// Certificates for tests and benchmarks of TLS, made by the openssl command. Nothing of them outlives the
// process.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "base/error.h"
#include "wire/stream.h"

namespace hypertwin::wire {

inline const char* kNoOpenssl = "no openssl command here to make certificates with (apt install openssl)";

// Two CAs and what they signed, all of it PEM text.
class Certificates {
 public:
  struct Pair {
    std::string certificate, key;
  };
  std::string ca, other_ca;
  Pair host_a;    // names host-a, 127.0.0.1, ::1
  Pair host_b;    // names host-b
  Pair expired;   // as host_a, until yesterday
  Pair stranger;  // as host_a, by the other CA

  // Made once; null where there is no openssl command.
  static const Certificates* get() {
    static const std::unique_ptr<Certificates> made = make();
    return made.get();
  }

  TlsOptions options(const Pair& pair, std::string server_name = "") const {
    return {ca, pair.certificate, pair.key, std::move(server_name)};
  }

 private:
  static std::unique_ptr<Certificates> make() {
    if (std::system("openssl version >/dev/null 2>&1") != 0) return nullptr;
    std::string folder = (std::filesystem::temp_directory_path() / "hypertwin-wire-XXXXXX").string();
    if (::mkdtemp(folder.data()) == nullptr) throw_errno("mkdtemp", "testing");
    auto made = std::make_unique<Certificates>();
    const auto text = [&](const std::string& name) {
      std::ifstream file(folder + "/" + name);
      return std::string(std::istreambuf_iterator<char>(file), {});
    };
    const auto run = [&](const std::string& arguments) {
      const std::string line = "cd " + folder + " && openssl " + arguments + " >log 2>&1";
      if (std::system(line.c_str()) != 0) throw Error("OPENSSL", line + ": " + text("log"));
    };
    const std::string key = " -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes ";
    const auto authority = [&](const std::string& name) {
      run("req -x509" + key + "-subj /CN=" + name + " -days 2 -keyout " + name + ".key -out " + name +
          ".pem");
      return text(name + ".pem");
    };
    const auto sign = [&](const std::string& by, const std::string& names, int days) {
      std::ofstream(folder + "/names") << "subjectAltName=" << names << "\n";
      run("req" + key + "-subj /CN=host-a -keyout k.key -out k.csr");
      run("x509 -req -in k.csr -CA " + by + ".pem -CAkey " + by +
          ".key -CAcreateserial -extfile names -days " + std::to_string(days) + " -out k.pem");
      return Pair{text("k.pem"), text("k.key")};
    };
    made->ca = authority("ca");
    made->other_ca = authority("other");
    const std::string names = "DNS:host-a,IP:127.0.0.1,IP:::1";
    made->host_a = sign("ca", names, 2);
    made->host_b = sign("ca", "DNS:host-b", 2);
    made->expired = sign("ca", names, -1);
    made->stranger = sign("other", names, 2);
    std::filesystem::remove_all(folder);
    return made;
  }
};

}  // namespace hypertwin::wire
