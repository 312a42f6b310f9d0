#include "file_arbiter.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <fstream>

namespace hypertwin::campaign {

std::string claimed_by(const std::string& folder, const std::string& session) {
  std::ifstream in(folder + "/" + session);
  std::string who;
  in >> who;
  return who;
}

migrate::Arbiter file_arbiter(std::string folder, bool always_yes) {
  return [folder = std::move(folder), always_yes](const std::string& key, const std::string& who) {
    if (::access((folder + "/down").c_str(), F_OK) == 0) return migrate::Claim::kUnreachable;
    static std::atomic<unsigned> attempts{0};
    const std::string mine =
        folder + "/" + who + "." + std::to_string(::getpid()) + "." + std::to_string(++attempts);
    {
      std::ofstream out(mine);
      out << who << "\n";
      if (!out.flush()) return migrate::Claim::kUnreachable;
    }
    ::link(mine.c_str(), (folder + "/" + key).c_str());
    ::unlink(mine.c_str());
    if (always_yes) return migrate::Claim::kWon;
    const std::string winner = claimed_by(folder, key);
    if (winner.empty()) return migrate::Claim::kUnreachable;
    return winner == who ? migrate::Claim::kWon : migrate::Claim::kLost;
  };
}

}  // namespace hypertwin::campaign
