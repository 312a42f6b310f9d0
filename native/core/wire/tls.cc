// See tls.h.
#include "wire/tls.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <type_traits>
#include <utility>

#include "base/error.h"

namespace hypertwin::wire {

namespace openssl {

struct BioMethod;
struct Certificate;
struct Key;
struct Method;
struct Store;
struct VerifyParameters;
using PasswordCallback = int(char*, int, int, void*);

// Result, name, parameters, as OpenSSL's manual pages have them.
#define HT_OPENSSL(X)                                                                 \
  X(unsigned long, OpenSSL_version_num, (void))                                       \
  X(unsigned long, ERR_get_error, (void))                                             \
  X(unsigned long, ERR_peek_error, (void))                                            \
  X(void, ERR_clear_error, (void))                                                    \
  X(const char*, ERR_reason_error_string, (unsigned long))                            \
  X(const Method*, TLS_method, (void))                                                \
  X(SslContext*, SSL_CTX_new, (const Method*))                                        \
  X(void, SSL_CTX_free, (SslContext*))                                                \
  X(long, SSL_CTX_ctrl, (SslContext*, int, long, void*))                              \
  X(void, SSL_CTX_set_verify, (SslContext*, int, void*))                              \
  X(int, SSL_CTX_set_num_tickets, (SslContext*, size_t))                              \
  X(Store*, SSL_CTX_get_cert_store, (const SslContext*))                              \
  X(int, X509_STORE_add_cert, (Store*, Certificate*))                                 \
  X(int, SSL_CTX_use_certificate, (SslContext*, Certificate*))                        \
  X(int, SSL_CTX_use_PrivateKey, (SslContext*, Key*))                                 \
  X(int, SSL_CTX_check_private_key, (const SslContext*))                              \
  X(Bio*, BIO_new_mem_buf, (const void*, int))                                        \
  X(int, BIO_free, (Bio*))                                                            \
  X(Certificate*, PEM_read_bio_X509, (Bio*, Certificate**, PasswordCallback*, void*)) \
  X(Key*, PEM_read_bio_PrivateKey, (Bio*, Key**, PasswordCallback*, void*))           \
  X(void, X509_free, (Certificate*))                                                  \
  X(void, EVP_PKEY_free, (Key*))                                                      \
  X(BioMethod*, BIO_meth_new, (int, const char*))                                     \
  X(int, BIO_meth_set_read, (BioMethod*, int (*)(Bio*, char*, int)))                  \
  X(int, BIO_meth_set_write, (BioMethod*, int (*)(Bio*, const char*, int)))           \
  X(int, BIO_meth_set_ctrl, (BioMethod*, long (*)(Bio*, int, long, void*)))           \
  X(int, BIO_get_new_index, (void))                                                   \
  X(Bio*, BIO_new, (const BioMethod*))                                                \
  X(void, BIO_set_init, (Bio*, int))                                                  \
  X(void, BIO_set_data, (Bio*, void*))                                                \
  X(void*, BIO_get_data, (Bio*))                                                      \
  X(void, BIO_set_flags, (Bio*, int))                                                 \
  X(void, BIO_clear_flags, (Bio*, int))                                               \
  X(Ssl*, SSL_new, (SslContext*))                                                     \
  X(void, SSL_free, (Ssl*))                                                           \
  X(void, SSL_set_bio, (Ssl*, Bio*, Bio*))                                            \
  X(void, SSL_set_connect_state, (Ssl*))                                              \
  X(void, SSL_set_accept_state, (Ssl*))                                               \
  X(VerifyParameters*, SSL_get0_param, (Ssl*))                                        \
  X(int, X509_VERIFY_PARAM_set1_host, (VerifyParameters*, const char*, size_t))       \
  X(int, X509_VERIFY_PARAM_set1_ip_asc, (VerifyParameters*, const char*))             \
  X(void, X509_VERIFY_PARAM_set_hostflags, (VerifyParameters*, unsigned))             \
  X(long, SSL_ctrl, (Ssl*, int, long, void*))                                         \
  X(int, SSL_do_handshake, (Ssl*))                                                    \
  X(int, SSL_read, (Ssl*, void*, int))                                                \
  X(int, SSL_write, (Ssl*, const void*, int))                                         \
  X(int, SSL_shutdown, (Ssl*))                                                        \
  X(int, SSL_key_update, (Ssl*, int))                                                 \
  X(int, SSL_get_error, (const Ssl*, int))                                            \
  X(long, SSL_get_verify_result, (const Ssl*))                                        \
  X(const char*, X509_verify_cert_error_string, (long))

struct Api {
#define HT_MEMBER(result, name, parameters) result(*name) parameters = nullptr;
  HT_OPENSSL(HT_MEMBER)
#undef HT_MEMBER
  BioMethod* method = nullptr;  // of TlsStream's buffers; the process's, never freed
};

}  // namespace openssl

using openssl::Api;

namespace {

// Values of OpenSSL's headers; its binary interface keeps them.
constexpr int kErrorWantRead = 2, kErrorZeroReturn = 6;
constexpr int kVerifyPeer = 1, kVerifyFailIfNone = 2;
constexpr int kCtrlChainCertificate = 89, kCtrlMinVersion = 123, kCtrlSessionCache = 44;
constexpr int kCtrlHostName = 55;
constexpr long kTls13 = 0x0304;
constexpr unsigned kNoPartialWildcards = 4, kNeverCheckSubject = 0x20;
constexpr int kBioCtrlFlush = 11, kBioSourceSink = 0x400, kBioRead = 1, kBioRetry = 8;
constexpr int kReasonMask = 0xfff, kPemNoStartLine = 108, kAlertReasons = 1000;
constexpr long kHostMismatch = 62, kAddressMismatch = 64;
constexpr unsigned long kOldestOpenssl = 0x10101000;

constexpr uint8_t kConfirmation = 6;
constexpr size_t kRecordBytes = 16u << 10;
// How much is encrypted under the mutex, and sent, at a time.
constexpr size_t kPieceBytes = 4 * kRecordBytes;
constexpr size_t kReadBytes = 128u << 10;

// Where OpenSSL reads and writes.
struct Ends {
  std::vector<uint8_t> in;
  size_t in_begin = 0, in_end = 0;
  std::vector<uint8_t> out;
};

// Filled once, by api().
Api the_api;

int bio_read(openssl::Bio* bio, char* into, int size) {
  auto* ends = static_cast<Ends*>(the_api.BIO_get_data(bio));
  the_api.BIO_clear_flags(bio, kBioRead | kBioRetry);
  const size_t count = std::min(ends->in_end - ends->in_begin, static_cast<size_t>(std::max(size, 0)));
  if (count == 0) {
    the_api.BIO_set_flags(bio, kBioRead | kBioRetry);
    return -1;
  }
  std::memcpy(into, ends->in.data() + ends->in_begin, count);
  ends->in_begin += count;
  return static_cast<int>(count);
}

int bio_write(openssl::Bio* bio, const char* from, int size) {
  auto* ends = static_cast<Ends*>(the_api.BIO_get_data(bio));
  try {
    ends->out.insert(ends->out.end(), from, from + size);
  } catch (const std::bad_alloc&) {
    return -1;
  }
  return size;
}

long bio_ctrl(openssl::Bio*, int command, long, void*) { return command == kBioCtrlFlush ? 1 : 0; }

// Finds every function; what is missing, or empty.
std::string load(Api& ssl) {
  void* from = RTLD_DEFAULT;
  if (::dlsym(RTLD_DEFAULT, "SSL_CTX_new") == nullptr) {
    from = ::dlopen("libssl.so.3", RTLD_NOW | RTLD_LOCAL);
    if (from == nullptr) {
      const char* why = ::dlerror();
      return std::string("this process carries no OpenSSL, and libssl.so.3 was not opened: ") +
             (why != nullptr ? why : "");
    }
  }
  std::string missing;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(from, name));
    if (function == nullptr && missing.empty()) missing = name;
  };
#define HT_FIND(result, name, parameters) find(ssl.name, #name);
  HT_OPENSSL(HT_FIND)
#undef HT_FIND
  if (!missing.empty()) return "the OpenSSL of this process has no " + missing;
  if (ssl.OpenSSL_version_num() < kOldestOpenssl) return "the OpenSSL of this process is older than 1.1.1";
  ssl.method = ssl.BIO_meth_new(ssl.BIO_get_new_index() | kBioSourceSink, "hypertwin");
  if (ssl.method == nullptr || ssl.BIO_meth_set_read(ssl.method, bio_read) != 1 ||
      ssl.BIO_meth_set_write(ssl.method, bio_write) != 1 || ssl.BIO_meth_set_ctrl(ssl.method, bio_ctrl) != 1)
    return "OpenSSL had no memory";
  return {};
}

const Api& api() {
  static const std::string problem = load(the_api);
  if (!problem.empty()) throw Error("TLS_UNAVAILABLE", "wire: no TLS: " + problem);
  return the_api;
}

[[noreturn]] void failed(const std::string& problem) { throw Error("TLS_FAILED", "wire: TLS: " + problem); }

// The first error in this thread's queue, which is emptied.
std::string first_error(const Api& ssl) {
  const unsigned long code = ssl.ERR_get_error();
  ssl.ERR_clear_error();
  const char* text = code != 0 ? ssl.ERR_reason_error_string(code) : nullptr;
  return text != nullptr ? text : "error " + std::to_string(code);
}

// No key of ours asks for a password on the terminal.
int no_password(char*, int, int, void*) { return 0; }

struct BioFree {
  void operator()(openssl::Bio* bio) const { the_api.BIO_free(bio); }
};
struct CertificateFree {
  void operator()(openssl::Certificate* certificate) const { the_api.X509_free(certificate); }
};
using OwnedCertificate = std::unique_ptr<openssl::Certificate, CertificateFree>;

std::unique_ptr<openssl::Bio, BioFree> bio_over(const Api& ssl, const std::string& text) {
  std::unique_ptr<openssl::Bio, BioFree> bio(
      ssl.BIO_new_mem_buf(text.data(), static_cast<int>(std::min<size_t>(text.size(), 1u << 30))));
  if (!bio) failed("OpenSSL had no memory");
  return bio;
}

// All certificates of a PEM text; at least one.
std::vector<OwnedCertificate> certificates(const Api& ssl, const std::string& text, const char* what) {
  const auto bio = bio_over(ssl, text);
  std::vector<OwnedCertificate> found;
  ssl.ERR_clear_error();
  while (auto* certificate = ssl.PEM_read_bio_X509(bio.get(), nullptr, no_password, nullptr))
    found.emplace_back(certificate);
  if ((ssl.ERR_peek_error() & kReasonMask) != kPemNoStartLine)
    failed(std::string(what) + " is no good PEM text: " + first_error(ssl));
  ssl.ERR_clear_error();
  if (found.empty()) failed(std::string(what) + " holds no PEM certificate");
  return found;
}

bool is_ip(const std::string& name) {
  in6_addr address;
  return ::inet_pton(AF_INET, name.c_str(), &address) == 1 ||
         ::inet_pton(AF_INET6, name.c_str(), &address) == 1;
}

}  // namespace

struct TlsStream::Buffers : Ends {};

std::atomic<uint64_t> TlsStream::rekey_bytes{16ull << 30};

TlsContext::TlsContext(const TlsOptions& options) {
  const Api& ssl = api();
  ssl.ERR_clear_error();
  std::unique_ptr<openssl::SslContext, void (*)(openssl::SslContext*)> context(
      ssl.SSL_CTX_new(ssl.TLS_method()), ssl.SSL_CTX_free);
  if (!context) failed("OpenSSL made no context: " + first_error(ssl));
  if (ssl.SSL_CTX_ctrl(context.get(), kCtrlMinVersion, kTls13, nullptr) != 1)
    failed("OpenSSL has no TLS 1.3: " + first_error(ssl));
  ssl.SSL_CTX_ctrl(context.get(), kCtrlSessionCache, 0, nullptr);
  ssl.SSL_CTX_set_num_tickets(context.get(), 0);
  ssl.SSL_CTX_set_verify(context.get(), kVerifyPeer | kVerifyFailIfNone, nullptr);

  auto* store = ssl.SSL_CTX_get_cert_store(context.get());
  for (const auto& certificate : certificates(ssl, options.ca, "the CA"))
    if (ssl.X509_STORE_add_cert(store, certificate.get()) != 1)
      failed("a CA certificate was not taken: " + first_error(ssl));

  auto chain = certificates(ssl, options.certificate, "the certificate");
  if (ssl.SSL_CTX_use_certificate(context.get(), chain[0].get()) != 1)
    failed("the certificate was not taken: " + first_error(ssl));
  for (size_t i = 1; i < chain.size(); i++) {
    if (ssl.SSL_CTX_ctrl(context.get(), kCtrlChainCertificate, 0, chain[i].get()) != 1)
      failed("a certificate of the chain was not taken: " + first_error(ssl));
    static_cast<void>(chain[i].release());  // the context's now
  }

  const auto bio = bio_over(ssl, options.key);
  const std::unique_ptr<openssl::Key, void (*)(openssl::Key*)> key(
      ssl.PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr), ssl.EVP_PKEY_free);
  if (!key) failed("the key is no PEM key without a password: " + first_error(ssl));
  if (ssl.SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1 ||
      ssl.SSL_CTX_check_private_key(context.get()) != 1)
    failed("key and certificate are no pair: " + first_error(ssl));
  context_ = context.release();
}

TlsContext::~TlsContext() { the_api.SSL_CTX_free(context_); }

TlsStream::TlsStream(Fd socket, std::string peer, std::shared_ptr<TlsContext> context, Side side,
                     const std::string& name)
    : SocketStream(std::move(socket), std::move(peer)),
      context_(std::move(context)),
      side_(side),
      name_(name),
      buffers_(std::make_unique<Buffers>()) {
  const Api& ssl = the_api;
  ssl.ERR_clear_error();
  buffers_->in.resize(kReadBytes);
  ssl_ = ssl.SSL_new(context_->context_);
  auto* bio = ssl_ != nullptr ? ssl.BIO_new(ssl.method) : nullptr;
  if (bio == nullptr) {
    ssl.SSL_free(ssl_);
    fail("TLS_FAILED", first_error(ssl));
  }
  ssl.BIO_set_data(bio, static_cast<Ends*>(buffers_.get()));
  ssl.BIO_set_init(bio, 1);
  ssl.SSL_set_bio(ssl_, bio, bio);
  if (!name_.empty()) {
    auto* parameters = ssl.SSL_get0_param(ssl_);
    ssl.X509_VERIFY_PARAM_set_hostflags(parameters, kNoPartialWildcards | kNeverCheckSubject);
    const bool taken = is_ip(name_)
                           ? ssl.X509_VERIFY_PARAM_set1_ip_asc(parameters, name_.c_str()) == 1
                           : ssl.X509_VERIFY_PARAM_set1_host(parameters, name_.data(), name_.size()) == 1;
    if (!taken) {
      ssl.SSL_free(ssl_);
      fail("TLS_FAILED", "'" + name_ + "' is no name that a certificate can have");
    }
    if (side_ == Side::kConnecting && !is_ip(name_))
      ssl.SSL_ctrl(ssl_, kCtrlHostName, 0, const_cast<char*>(name_.c_str()));
  }
  if (side_ == Side::kConnecting)
    ssl.SSL_set_connect_state(ssl_);
  else
    ssl.SSL_set_accept_state(ssl_);
}

TlsStream::~TlsStream() { the_api.SSL_free(ssl_); }

void TlsStream::fail(const char* code, const std::string& problem) {
  throw Error(code, "wire: TLS with " + peer() + ": " + problem);
}

std::string TlsStream::reason() {
  const Api& ssl = the_api;
  const unsigned long code = ssl.ERR_peek_error();
  const std::string text = first_error(ssl);
  const long verified = ssl.SSL_get_verify_result(ssl_);
  if (verified == kHostMismatch || verified == kAddressMismatch)
    return "its certificate does not name '" + name_ + "'";
  if (verified != 0)
    return std::string("its certificate was refused: ") + ssl.X509_verify_cert_error_string(verified);
  const int number = static_cast<int>(code & kReasonMask);
  if (number >= kAlertReasons && number < kAlertReasons + 256) return "it refused this side: " + text;
  return text;
}

bool TlsStream::flush_now() noexcept {
  auto& out = buffers_->out;
  size_t sent = 0;
  while (sent < out.size()) {
    const ssize_t count = ::send(fd(), out.data() + sent, out.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    sent += static_cast<size_t>(count);
  }
  out.erase(out.begin(), out.begin() + static_cast<ptrdiff_t>(sent));
  return out.empty();
}

short TlsStream::handshake() {
  const Api& ssl = the_api;
  std::lock_guard lock(mutex_);
  for (;;) {
    if (step_ == Step::kDone) return flush_now() ? 0 : POLLOUT;
    ssl.ERR_clear_error();
    uint8_t byte = kConfirmation;
    int result;
    if (step_ == Step::kHandshake) {
      result = ssl.SSL_do_handshake(ssl_);
    } else if (side_ == Side::kAccepting) {
      result = ssl.SSL_write(ssl_, &byte, 1);
    } else {
      result = ssl.SSL_read(ssl_, &byte, 1);
    }
    if (result == 1) {
      if (byte != kConfirmation) fail("TLS_FAILED", "it is no hypertwin");
      step_ = step_ == Step::kHandshake ? Step::kConfirm : Step::kDone;
      continue;
    }
    const int error = ssl.SSL_get_error(ssl_, result);
    const std::string why = error == kErrorWantRead ? "" : reason();
    const bool flushed = flush_now();  // an alert, too
    if (error == kErrorZeroReturn) fail("TLS_FAILED", "it ended the connection");
    if (error != kErrorWantRead) fail("TLS_FAILED", why);
    const ssize_t got = ::recv(fd(), buffers_->in.data(), buffers_->in.size(), MSG_DONTWAIT);
    if (got > 0) {
      buffers_->in_begin = 0;
      buffers_->in_end = static_cast<size_t>(got);
      continue;
    }
    if (got == 0) fail("TLS_FAILED", "it ended the connection in the middle of the handshake");
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK)
      fail("TLS_FAILED",
           std::string("the connection broke in the middle of the handshake: ") + std::strerror(errno));
    return static_cast<short>(POLLIN | (flushed ? 0 : POLLOUT));
  }
}

size_t TlsStream::read(std::span<uint8_t> into) {
  const Api& ssl = the_api;
  for (;;) {
    {
      std::lock_guard lock(mutex_);
      // As many records as are here, but not for so long that a write waits.
      const size_t most = std::min(into.size(), kPieceBytes);
      size_t got = 0;
      while (got < most) {
        ssl.ERR_clear_error();
        const int result = ssl.SSL_read(ssl_, into.data() + got, static_cast<int>(most - got));
        if (result > 0) {
          got += static_cast<size_t>(result);
          continue;
        }
        const int error = ssl.SSL_get_error(ssl_, result);
        if (got != 0 || error == kErrorWantRead) break;
        if (error == kErrorZeroReturn) return 0;
        const std::string why = reason();
        if (std::unique_lock write(write_mutex_, std::try_to_lock); write.owns_lock()) flush_now();
        fail("PEER_LOST", why);
      }
      if (got != 0) return got;
    }
    // OpenSSL has used up in_, and looks at nothing of it until in_end says that there is more.
    const size_t got = SocketStream::read(buffers_->in);
    if (got == 0) {
      if (shut_) return 0;
      fail("PEER_LOST", "the connection ended without TLS's own end");
    }
    std::lock_guard lock(mutex_);
    buffers_->in_begin = 0;
    buffers_->in_end = got;
  }
}

void TlsStream::write_some(std::span<const uint8_t> bytes) {
  const Api& ssl = the_api;
  {
    std::lock_guard lock(mutex_);
    ssl.ERR_clear_error();
    since_rekey_ += bytes.size();
    if (since_rekey_ >= rekey_bytes) {
      since_rekey_ = 0;
      ssl.SSL_key_update(ssl_, 0);
    }
    const int result = ssl.SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size()));
    if (result <= 0) fail("PEER_LOST", reason());
    std::swap(sending_, buffers_->out);
  }
  const std::array<std::span<const uint8_t>, 1> parts{sending_};
  SocketStream::write(parts);
  sending_.clear();
}

void TlsStream::write(std::span<const std::span<const uint8_t>> parts) {
  std::lock_guard lock(write_mutex_);
  // Small parts become one record: a header alone would cost one of its own.
  gathered_.clear();
  for (auto part : parts) {
    while (!part.empty()) {
      if (gathered_.empty() && part.size() >= kRecordBytes) {
        const size_t count = std::min(part.size() - part.size() % kRecordBytes, kPieceBytes);
        write_some(part.first(count));
        part = part.subspan(count);
        continue;
      }
      const size_t count = std::min(part.size(), kRecordBytes - gathered_.size());
      gathered_.insert(gathered_.end(), part.begin(), part.begin() + static_cast<ptrdiff_t>(count));
      part = part.subspan(count);
      if (gathered_.size() == kRecordBytes) {
        write_some(gathered_);
        gathered_.clear();
      }
    }
  }
  if (!gathered_.empty()) write_some(gathered_);
}

void TlsStream::shutdown() noexcept {
  if (!shut_.exchange(true)) {
    // In the middle of a write the peer is told by the cut alone.
    std::unique_lock write(write_mutex_, std::try_to_lock);
    if (write.owns_lock()) {
      std::lock_guard lock(mutex_);
      the_api.ERR_clear_error();
      the_api.SSL_shutdown(ssl_);
      the_api.ERR_clear_error();
      flush_now();
    }
  }
  SocketStream::shutdown();
}

}  // namespace hypertwin::wire
