#include "backends/nbd_tls.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "backends/disk.h"

namespace hypertwin::backends {

namespace {

std::string decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const std::string digits(text.substr(std::min(i + 1, text.size()), 2));
    char* end = nullptr;
    const auto value = static_cast<char>(std::strtoul(digits.c_str(), &end, 16));
    if (text[i] != '%' || digits.size() != 2 || end != digits.c_str() + 2) {
      out += text[i];
      continue;
    }
    out += value;
    i += 2;
  }
  return out;
}

}  // namespace

std::optional<std::string> uri_parameter(std::string_view uri, std::string_view name) {
  uri = uri.substr(0, uri.find('#'));
  size_t at = uri.find('?');
  while (at < uri.size()) {
    uri.remove_prefix(at + 1);
    at = uri.find_first_of("&;");
    const std::string_view one = uri.substr(0, at);
    if (one.starts_with(name) && one.substr(name.size()).starts_with('='))
      return decoded(one.substr(name.size() + 1));
  }
  return std::nullopt;
}

std::optional<Error> unverifiable(const std::string& uri) {
  if (!uri.starts_with("nbds://") || uri_parameter(uri, "tls-psk-file")) return std::nullopt;
  std::vector<std::string> folders;
  const auto named = uri_parameter(uri, "tls-certificates");
  const char* home = std::getenv("HOME");
  if (named)
    folders = {*named};
  else if (::geteuid() == 0)
    folders = {"/etc/pki/libnbd"};
  else if (home)
    folders = {std::string(home) + "/.pki/libnbd", std::string(home) + "/.config/pki/libnbd"};
  std::string looked;
  for (const std::string& folder : folders) {
    if (::access((folder + "/ca-cert.pem").c_str(), R_OK) == 0) return std::nullopt;
    looked += (looked.empty() ? "" : ", ") + folder;
  }
  return Error("BAD_CONFIG",
               "the disk " + without_secrets(uri) +
                   ": its server cannot be verified, since no ca-cert.pem can be read in " +
                   (looked.empty() ? "a folder" : looked) +
                   ". Name the folder, tls-certificates=FOLDER, or a file with keys, tls-psk-file=FILE");
}

}  // namespace hypertwin::backends
