#include "libvirt/auth.h"

#include <cstring>
#include <utility>

#include "libvirt/abi.h"
#include "libvirt/error.h"
#include "libvirt/exclusive.h"
#include "libvirt/handle.h"
#include "libvirt/loader.h"

namespace hypertwin::libvirt {

namespace {

std::optional<std::string> optional_text(const char* text) {
  return text ? std::optional<std::string>(text) : std::nullopt;
}

int on_credentials(abi::Credential* list, unsigned count, void* opaque) {
  auto* desk = static_cast<CredentialDesk*>(opaque);
  try {
    std::vector<CredentialRequest> requests;
    for (unsigned i = 0; i < count; ++i)
      requests.push_back({list[i].type, list[i].prompt ? list[i].prompt : "",
                          optional_text(list[i].challenge), optional_text(list[i].default_result)});
    const auto answers = desk->request(requests);
    if (!answers) return -1;
    for (unsigned i = 0; i < count; ++i) {
      if (i >= answers->size() || !(*answers)[i]) continue;
      list[i].result = ::strdup((*answers)[i]->c_str());
      if (!list[i].result) return -1;
      list[i].result_length = static_cast<unsigned>(std::strlen(list[i].result));
    }
    return 0;
  } catch (const std::exception&) {
    return -1;
  }
}

// VIR_CONNECT_RO.
constexpr uint32_t kReadOnly = 1;

}  // namespace

std::optional<CredentialAnswers> CredentialDesk::request(const std::vector<CredentialRequest>& requests) {
  {
    std::lock_guard lock(mutex_);
    if (refused_) return std::nullopt;
    has_answer_ = false;
  }
  ask_(requests);
  std::unique_lock lock(mutex_);
  answered_.wait(lock, [this] { return has_answer_ || refused_; });
  return has_answer_ ? std::exchange(answer_, std::nullopt) : std::nullopt;
}

void CredentialDesk::answer(std::optional<CredentialAnswers> answers) {
  {
    std::lock_guard lock(mutex_);
    answer_ = std::move(answers);
    has_answer_ = true;
  }
  answered_.notify_all();
}

void CredentialDesk::refuse_all() {
  {
    std::lock_guard lock(mutex_);
    refused_ = true;
  }
  answered_.notify_all();
}

std::shared_ptr<Handle> open_connection(const std::optional<std::string>& uri, uint32_t flags,
                                        const std::vector<int>& types,
                                        const std::shared_ptr<CredentialDesk>& desk) {
  loader().load();
  claim_process(Class::connect, "virConnectOpen");
  const char* name = uri ? uri->c_str() : nullptr;
  const char* function = "virConnectOpen";
  void* connection = nullptr;
  reset_error();
  if (desk || (flags & ~kReadOnly)) {
    function = "virConnectOpenAuth";
    std::vector<int> known = desk ? types : std::vector<int>();
    abi::Auth auth{known.data(), static_cast<unsigned>(known.size()), desk ? &on_credentials : nullptr,
                   desk.get()};
    using OpenAuth = void*(const char*, abi::Auth*, unsigned);
    connection = loader().get<OpenAuth>(function, 4001)(name, &auth, flags);
  } else {
    if (flags) function = "virConnectOpenReadOnly";
    connection = loader().get<void*(const char*)>(function)(name);
  }
  if (!connection) throw last_error(function);
  return Handle::adopt(Class::connect, connection);
}

}  // namespace hypertwin::libvirt
