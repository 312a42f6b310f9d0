// Connected byte streams: TCP, UNIX sockets, both with TLS or without. Blocking calls for native threads; no
// frame and no machine is known here.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"

namespace hypertwin::wire {

// PEM texts. Both sides show a certificate and check the other's against `ca`: there is no other mode.
struct TlsOptions {
  std::string ca;
  std::string certificate;  // and its chain
  std::string key;
  std::string server_name;  // what the other side's certificate must name, a DNS name or an IP address;
                            // empty: the address connected to; on the accepting side: not checked
};

// "tcp://host:port" ("tcp://[::1]:port"; port 0 on a listener: any), "unix:/path". Throws
// Error("BAD_ADDRESS").
struct Address {
  enum class Kind { kTcp, kUnix } kind = Kind::kTcp;
  std::string host;  // or the path
  uint16_t port = 0;
  static Address parse(const std::string& text);
  std::string text() const;
};

// read() and write() may run at the same time in two threads, each in one.
class Stream {
 public:
  virtual ~Stream() = default;
  // At least one byte, or 0 at the end. Throws Error("PEER_LOST") with the errno.
  virtual size_t read(std::span<uint8_t> into) = 0;
  // All of it, or throws Error("PEER_LOST").
  virtual void write(std::span<const std::span<const uint8_t>> parts) = 0;
  // Any thread, any time: reads and writes end now, the peer sees the end.
  virtual void shutdown() noexcept = 0;
  // Any thread, while it is open: the peer has ended the connection, and hears nothing that is written from
  // now on. False: nobody knows.
  virtual bool ended() const noexcept { return false; }
  // For messages.
  virtual std::string peer() const = 0;
};

// Throws Error: PEER_UNREACHABLE (with the cause), TIMEOUT, TLS_FAILED (which check), TLS_UNAVAILABLE,
// CANCELLED. `cancel` is readable (an eventfd) when the caller gives up; may be -1. A host name is first
// asked of the system's resolver, which neither `timeout` nor `cancel` reaches.
std::unique_ptr<Stream> connect(const Address& address, const std::optional<TlsOptions>& tls,
                                std::chrono::milliseconds timeout, int cancel = -1);
// An already connected socket; for tests and inherited descriptors.
std::unique_ptr<Stream> adopt(Fd socket, std::string peer);

class TlsContext;

class Listener {
 public:
  // Throws Error: EADDRINUSE and other failed calls, BAD_ADDRESS, TLS_FAILED, TLS_UNAVAILABLE. A UNIX socket
  // that nobody listens on is replaced, and removed at the end; its folder's rights decide who may connect
  // (mode 0600).
  explicit Listener(const Address& address, std::optional<TlsOptions> tls = {});
  ~Listener();
  // With the port that was taken.
  const Address& address() const { return address_; }
  // nullptr after close(). The TLS handshake is done, within 10 s; peers that fail it are dropped and told to
  // `on_refused`. Several are shaken hands with at once: one that says nothing holds up no other. One thread.
  std::unique_ptr<Stream> accept(const std::function<void(const std::string&)>& on_refused = {});
  // Any thread: ends accept().
  void close() noexcept;

 private:
  struct Handshake;
  // The next connection, or null when it was gone before it was taken.
  std::unique_ptr<Stream> take(const std::function<void(const std::string&)>& on_refused);

  Address address_;
  Fd socket_;
  Fd stop_;
  std::shared_ptr<TlsContext> tls_;  // none: without TLS
  std::string tls_name_;
  std::vector<Handshake> handshakes_;  // the oldest first
  // The UNIX socket's file.
  dev_t file_device_ = 0;
  ino_t file_inode_ = 0;
};

}  // namespace hypertwin::wire
