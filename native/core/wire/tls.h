// TLS 1.3 around a connected socket, by the OpenSSL that this process carries (Node's, whose symbols its
// executable exports), or by libssl.so.3 where there is none. Internal to native/core/wire. OpenSSL's headers
// are not used: everything of it is an opaque pointer and a function found by name.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "wire/socket.h"

namespace hypertwin::wire {

namespace openssl {
struct Api;
struct Bio;
struct Ssl;
struct SslContext;
}  // namespace openssl

// One side's certificate, key and CA, read and checked.
class TlsContext {
 public:
  // Throws Error: TLS_UNAVAILABLE; TLS_FAILED when a PEM text is none, or key and certificate are no pair.
  explicit TlsContext(const TlsOptions& options);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

 private:
  friend class TlsStream;
  openssl::SslContext* context_;
};

// Made in the state before the handshake; read() and write() are for after it.
//
// What OpenSSL reads and writes are two buffers here. It works on them under mutex_, which is never held
// while the socket is waited for, so a blocked read holds up no write, nor the other way round. The reading
// thread alone fills `in_` from the socket, the writing one alone empties `out_` into it; what the reading
// side of OpenSSL wants to send (the answer to a key update) goes with the next write, as the protocol asks.
class TlsStream : public SocketStream {
 public:
  enum class Side { kConnecting, kAccepting };

  // `name`: what the peer's certificate must name; empty: not checked.
  TlsStream(Fd socket, std::string peer, std::shared_ptr<TlsContext> context, Side side,
            const std::string& name);
  ~TlsStream() override;

  // Goes on with the handshake as far as it can without waiting: 0 when it is done, else what to poll for.
  // Throws Error("TLS_FAILED") that names the check.
  short handshake();

  size_t read(std::span<uint8_t> into) override;
  void write(std::span<const std::span<const uint8_t>> parts) override;
  void shutdown() noexcept override;

  // New keys after so many bytes, far below what AES-GCM bears. Tests make it small.
  static std::atomic<uint64_t> rekey_bytes;

 private:
  struct Buffers;
  [[noreturn]] void fail(const char* code, const std::string& problem);
  // What OpenSSL's error queue of this thread, and the certificate's check, say; mutex_ is held.
  std::string reason();
  // mutex_ is held. As much as the socket takes at once; true when nothing is left.
  bool flush_now() noexcept;
  // Encrypts and sends.
  void write_some(std::span<const uint8_t> bytes);

  std::shared_ptr<TlsContext> context_;
  const Side side_;
  const std::string name_;
  enum class Step { kHandshake, kConfirm, kDone } step_ = Step::kHandshake;
  std::atomic<bool> shut_{false};

  std::mutex write_mutex_;  // held by the writing thread for a whole write(), also while it waits
  std::vector<uint8_t> gathered_;
  std::vector<uint8_t> sending_;
  uint64_t since_rekey_ = 0;

  std::mutex mutex_;  // guards what follows; taken after write_mutex_
  std::unique_ptr<Buffers> buffers_;
  openssl::Ssl* ssl_ = nullptr;
};

}  // namespace hypertwin::wire
