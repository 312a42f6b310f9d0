#include "base/error.h"

#include <cstring>

namespace hypertwin {

namespace {
// strerrorname_np is younger than the oldest libc that we serve.
struct ErrnoName {
  int number;
  const char* name;
};
#define HT_ERRNO(name) \
  { name, #name }
constexpr ErrnoName kErrnoNames[] = {HT_ERRNO(EPERM),
                                     HT_ERRNO(ENOENT),
                                     HT_ERRNO(ESRCH),
                                     HT_ERRNO(EINTR),
                                     HT_ERRNO(EIO),
                                     HT_ERRNO(ENXIO),
                                     HT_ERRNO(E2BIG),
                                     HT_ERRNO(ENOEXEC),
                                     HT_ERRNO(EBADF),
                                     HT_ERRNO(ECHILD),
                                     HT_ERRNO(EAGAIN),
                                     HT_ERRNO(ENOMEM),
                                     HT_ERRNO(EACCES),
                                     HT_ERRNO(EFAULT),
                                     HT_ERRNO(ENOTBLK),
                                     HT_ERRNO(EBUSY),
                                     HT_ERRNO(EEXIST),
                                     HT_ERRNO(EXDEV),
                                     HT_ERRNO(ENODEV),
                                     HT_ERRNO(ENOTDIR),
                                     HT_ERRNO(EISDIR),
                                     HT_ERRNO(EINVAL),
                                     HT_ERRNO(ENFILE),
                                     HT_ERRNO(EMFILE),
                                     HT_ERRNO(ENOTTY),
                                     HT_ERRNO(ETXTBSY),
                                     HT_ERRNO(EFBIG),
                                     HT_ERRNO(ENOSPC),
                                     HT_ERRNO(ESPIPE),
                                     HT_ERRNO(EROFS),
                                     HT_ERRNO(EMLINK),
                                     HT_ERRNO(EPIPE),
                                     HT_ERRNO(EDOM),
                                     HT_ERRNO(ERANGE),
                                     HT_ERRNO(EDEADLK),
                                     HT_ERRNO(ENAMETOOLONG),
                                     HT_ERRNO(ENOLCK),
                                     HT_ERRNO(ENOSYS),
                                     HT_ERRNO(ENOTEMPTY),
                                     HT_ERRNO(ELOOP),
                                     HT_ERRNO(ENOMSG),
                                     HT_ERRNO(EIDRM),
                                     HT_ERRNO(ECHRNG),
                                     HT_ERRNO(EL2NSYNC),
                                     HT_ERRNO(EL3HLT),
                                     HT_ERRNO(EL3RST),
                                     HT_ERRNO(ELNRNG),
                                     HT_ERRNO(EUNATCH),
                                     HT_ERRNO(ENOCSI),
                                     HT_ERRNO(EL2HLT),
                                     HT_ERRNO(EBADE),
                                     HT_ERRNO(EBADR),
                                     HT_ERRNO(EXFULL),
                                     HT_ERRNO(ENOANO),
                                     HT_ERRNO(EBADRQC),
                                     HT_ERRNO(EBADSLT),
                                     HT_ERRNO(EBFONT),
                                     HT_ERRNO(ENOSTR),
                                     HT_ERRNO(ENODATA),
                                     HT_ERRNO(ETIME),
                                     HT_ERRNO(ENOSR),
                                     HT_ERRNO(ENONET),
                                     HT_ERRNO(ENOPKG),
                                     HT_ERRNO(EREMOTE),
                                     HT_ERRNO(ENOLINK),
                                     HT_ERRNO(EADV),
                                     HT_ERRNO(ESRMNT),
                                     HT_ERRNO(ECOMM),
                                     HT_ERRNO(EPROTO),
                                     HT_ERRNO(EMULTIHOP),
                                     HT_ERRNO(EDOTDOT),
                                     HT_ERRNO(EBADMSG),
                                     HT_ERRNO(EOVERFLOW),
                                     HT_ERRNO(ENOTUNIQ),
                                     HT_ERRNO(EBADFD),
                                     HT_ERRNO(EREMCHG),
                                     HT_ERRNO(ELIBACC),
                                     HT_ERRNO(ELIBBAD),
                                     HT_ERRNO(ELIBSCN),
                                     HT_ERRNO(ELIBMAX),
                                     HT_ERRNO(ELIBEXEC),
                                     HT_ERRNO(EILSEQ),
                                     HT_ERRNO(ERESTART),
                                     HT_ERRNO(ESTRPIPE),
                                     HT_ERRNO(EUSERS),
                                     HT_ERRNO(ENOTSOCK),
                                     HT_ERRNO(EDESTADDRREQ),
                                     HT_ERRNO(EMSGSIZE),
                                     HT_ERRNO(EPROTOTYPE),
                                     HT_ERRNO(ENOPROTOOPT),
                                     HT_ERRNO(EPROTONOSUPPORT),
                                     HT_ERRNO(ESOCKTNOSUPPORT),
                                     HT_ERRNO(EOPNOTSUPP),
                                     HT_ERRNO(EPFNOSUPPORT),
                                     HT_ERRNO(EAFNOSUPPORT),
                                     HT_ERRNO(EADDRINUSE),
                                     HT_ERRNO(EADDRNOTAVAIL),
                                     HT_ERRNO(ENETDOWN),
                                     HT_ERRNO(ENETUNREACH),
                                     HT_ERRNO(ENETRESET),
                                     HT_ERRNO(ECONNABORTED),
                                     HT_ERRNO(ECONNRESET),
                                     HT_ERRNO(ENOBUFS),
                                     HT_ERRNO(EISCONN),
                                     HT_ERRNO(ENOTCONN),
                                     HT_ERRNO(ESHUTDOWN),
                                     HT_ERRNO(ETOOMANYREFS),
                                     HT_ERRNO(ETIMEDOUT),
                                     HT_ERRNO(ECONNREFUSED),
                                     HT_ERRNO(EHOSTDOWN),
                                     HT_ERRNO(EHOSTUNREACH),
                                     HT_ERRNO(EALREADY),
                                     HT_ERRNO(EINPROGRESS),
                                     HT_ERRNO(ESTALE),
                                     HT_ERRNO(EUCLEAN),
                                     HT_ERRNO(ENOTNAM),
                                     HT_ERRNO(ENAVAIL),
                                     HT_ERRNO(EISNAM),
                                     HT_ERRNO(EREMOTEIO),
                                     HT_ERRNO(EDQUOT),
                                     HT_ERRNO(ENOMEDIUM),
                                     HT_ERRNO(EMEDIUMTYPE),
                                     HT_ERRNO(ECANCELED),
                                     HT_ERRNO(ENOKEY),
                                     HT_ERRNO(EKEYEXPIRED),
                                     HT_ERRNO(EKEYREVOKED),
                                     HT_ERRNO(EKEYREJECTED),
                                     HT_ERRNO(EOWNERDEAD),
                                     HT_ERRNO(ENOTRECOVERABLE),
                                     HT_ERRNO(ERFKILL),
                                     HT_ERRNO(EHWPOISON)};
#undef HT_ERRNO
}  // namespace

Error::Error(std::string code, std::string message) : std::runtime_error(message), code_(std::move(code)) {}

Error::Error(std::string code, int err, std::string call, const std::string& message)
    : std::runtime_error(message), code_(std::move(code)), errno_(err), call_(std::move(call)) {}

Error Error::system(int err, std::string call, std::string_view attempted) {
  std::string message = call + " failed while " + std::string(attempted) + ": " + std::strerror(err) + " (" +
                        errno_name(err) + ")";
  return Error(errno_name(err), err, std::move(call), message);
}

std::string errno_name(int err) {
  for (const ErrnoName& entry : kErrnoNames)
    if (entry.number == err) return entry.name;
  return "E" + std::to_string(err);
}

}  // namespace hypertwin
