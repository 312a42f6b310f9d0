// Opening a connection whose credentials somebody else gives, on another thread and in their own time.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace hypertwin::libvirt {

class Handle;

struct CredentialRequest {
  int type = 0;  // a virConnectCredentialType
  std::string prompt;
  std::optional<std::string> challenge;
  std::optional<std::string> default_result;
};
// By request; none: left out.
using CredentialAnswers = std::vector<std::optional<std::string>>;

// Waits on the pool for answers that come from elsewhere.
class CredentialDesk {
 public:
  using Ask = std::function<void(const std::vector<CredentialRequest>&)>;

  // `ask` is called on the pool, without locks, and leads to answer().
  explicit CredentialDesk(Ask ask) : ask_(std::move(ask)) {}

  // On the pool: nullopt when they were refused.
  std::optional<CredentialAnswers> request(const std::vector<CredentialRequest>& requests);
  // Any thread. nullopt refuses; so do all requests after refuse_all().
  void answer(std::optional<CredentialAnswers> answers);
  void refuse_all();

 private:
  const Ask ask_;
  std::mutex mutex_;  // guards all below
  std::condition_variable answered_;
  bool has_answer_ = false;
  bool refused_ = false;
  std::optional<CredentialAnswers> answer_;
};

// virConnectOpen, -OpenReadOnly or, with a desk, -OpenAuth; on a thread that may block. No uri: libvirt's
// default. `types` are the credentials that the desk knows. Throws LibvirtError, Error("LIBVIRT_MISSING").
std::shared_ptr<Handle> open_connection(const std::optional<std::string>& uri, uint32_t flags,
                                        const std::vector<int>& types,
                                        const std::shared_ptr<CredentialDesk>& desk);

}  // namespace hypertwin::libvirt
