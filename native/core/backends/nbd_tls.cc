#include "backends/nbd_tls.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "backends/disk.h"
#include "base/error.h"

namespace hypertwin::backends {

namespace {

std::string decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const std::string digits(text.substr(std::min(i + 1, text.size()), 2));
    if (text[i] == '%' && digits.size() == 2 && std::isxdigit(static_cast<unsigned char>(digits[0])) &&
        std::isxdigit(static_cast<unsigned char>(digits[1]))) {
      out += static_cast<char>(std::stoul(digits, nullptr, 16));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

Error refused(const std::string& uri, const std::string& why) {
  return Error("BAD_CONFIG", "the disk " + without_secrets(uri) + ": " + why);
}

// What the URI itself names.
TlsFiles named(const std::string& uri) {
  TlsFiles files;
  std::string_view query(uri);
  query = query.substr(0, query.find('#'));
  query.remove_prefix(std::min(query.find('?'), query.size()));
  if (query.find(';') != std::string_view::npos)
    throw refused(uri, "its parameters are separated by &, and a ; in them is written as %3B");
  while (!query.empty()) {
    query.remove_prefix(1);
    const std::string_view one = query.substr(0, query.find('&'));
    query.remove_prefix(one.size());
    const std::string_view name = one.substr(0, one.find('='));
    if (name.find('%') != std::string_view::npos)
      throw refused(uri, "the names of its parameters are to be written without %");
    std::string small(name);
    std::transform(small.begin(), small.end(), small.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (!small.starts_with("tls-")) continue;
    std::string* const to = name == "tls-certificates" ? &files.certificates
                            : name == "tls-psk-file"   ? &files.psk_file
                                                       : nullptr;
    if (!to)
      throw refused(uri, "of TLS it may name tls-certificates=FOLDER or tls-psk-file=FILE, not " + small +
                             "; servers are always verified");
    if (!to->empty()) throw refused(uri, small + " is there twice: give it once");
    *to = decoded(one.substr(std::min(name.size() + 1, one.size())));
    if (to->empty() || to->find('\0') != std::string::npos)
      throw refused(uri, small + " names nothing: give a path");
  }
  return files;
}

}  // namespace

TlsFiles tls_files(const std::string& uri) {
  if (!uri.starts_with("nbds")) return {};
  if (uri.find('\0') != std::string::npos) throw refused(uri, "there is a zero byte in it");
  TlsFiles files = named(uri);
  if (!uri.starts_with("nbds://") || !files.psk_file.empty()) return files;
  std::vector<std::string> folders;
  const char* home = std::getenv("HOME");
  if (!files.certificates.empty())
    folders = {files.certificates};
  else if (::geteuid() == 0)
    folders = {"/etc/pki/libnbd"};
  else if (home)
    folders = {std::string(home) + "/.pki/libnbd", std::string(home) + "/.config/pki/libnbd"};
  std::string looked;
  for (const std::string& folder : folders) {
    if (::access((folder + "/ca-cert.pem").c_str(), R_OK) == 0) {
      files.certificates = folder;
      return files;
    }
    looked += (looked.empty() ? "" : ", ") + folder;
  }
  throw refused(uri,
                "its server cannot be verified, since no ca-cert.pem can be read in " +
                    (looked.empty() ? "a folder" : looked) +
                    ". Name the folder, tls-certificates=FOLDER, or a file with keys, tls-psk-file=FILE");
}

}  // namespace hypertwin::backends
