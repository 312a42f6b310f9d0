#include "arbiter.h"

#include <chrono>
#include <map>
#include <optional>
#include <utility>

#include "base/error.h"
#include "machine_state.h"

namespace hypertwin::addon {
namespace {

// JavaScript gets so long for an answer: an arbiter that hangs is one that cannot be reached.
constexpr std::chrono::seconds kPatience{10};

// An environment's own. JavaScript thread only.
struct Arbiters {
  std::map<uint64_t, Napi::FunctionReference> functions;
  uint64_t next = 1;
};

}  // namespace

// Answered at most once; dropped unanswered, it counts as kUnreachable.
struct JsArbiter::Question {
  explicit Question(std::shared_ptr<JsArbiter> of) : owner(std::move(of)) {}
  void settle(migrate::Claim claim) {
    std::lock_guard lock(owner->mutex_);
    if (!answer) answer = claim;
    owner->answered_.notify_all();
  }
  const std::shared_ptr<JsArbiter> owner;
  std::optional<migrate::Claim> answer;  // guarded by the owner's mutex
};

std::shared_ptr<JsArbiter> JsArbiter::make(Napi::Env env, Napi::Function claim) {
  // So that the environment's end comes here first, and only then to handles whose threads may wait here.
  machine_env(env);
  EnvData& data = env_data(env);
  std::shared_ptr<JsArbiter> made(new JsArbiter(data.queue()));
  auto& arbiters = data.slot<Arbiters>();
  made->id_ = arbiters.next++;
  arbiters.functions.emplace(made->id_, Napi::Persistent(claim));
  made->teardown_ = data.on_teardown([weak = std::weak_ptr(made)] {
    if (auto arbiter = weak.lock()) arbiter->give_up();
  });
  return made;
}

JsArbiter::~JsArbiter() {
  // The function belongs to the JavaScript thread.
  queue_->post([id = id_, teardown = teardown_](Napi::Env env) {
    env_data(env).slot<Arbiters>().functions.erase(id);
    env_data(env).forget_teardown(teardown);
  });
}

migrate::Arbiter JsArbiter::function() {
  return [self = shared_from_this()](const std::string& key, const std::string& who) {
    return self->ask(key, who);
  };
}

migrate::Claim JsArbiter::ask(const std::string& key, const std::string& who) {
  auto question = std::make_shared<Question>(shared_from_this());
  uint64_t before = 0;
  {
    std::lock_guard lock(mutex_);
    if (over_) return migrate::Claim::kUnreachable;
    before = interruptions_;
  }
  // What JavaScript holds: its last owner answers, also when it is dropped uncalled.
  struct Asked {
    std::shared_ptr<Question> question;
    ~Asked() { question->settle(migrate::Claim::kUnreachable); }
  };
  queue_->post([asked = std::make_shared<Asked>(question), id = id_, key, who](Napi::Env env) {
    auto& functions = env_data(env).slot<Arbiters>().functions;
    auto found = functions.find(id);
    if (found == functions.end()) return;
    auto answer = Napi::Function::New(env, [asked](const Napi::CallbackInfo& info) {
      const uint32_t value = info[0].IsNumber() ? info[0].As<Napi::Number>().Uint32Value() : 2;
      asked->question->settle(value == 0   ? migrate::Claim::kWon
                              : value == 1 ? migrate::Claim::kLost
                                           : migrate::Claim::kUnreachable);
    });
    found->second.Value().Call({Napi::String::New(env, key), Napi::String::New(env, who), answer});
  });
  std::unique_lock lock(mutex_);
  answered_.wait_for(lock, kPatience, [&] { return question->answer || over_ || interruptions_ != before; });
  return question->answer.value_or(migrate::Claim::kUnreachable);
}

void JsArbiter::interrupt() {
  std::lock_guard lock(mutex_);
  ++interruptions_;
  answered_.notify_all();
}

void JsArbiter::give_up() {
  std::lock_guard lock(mutex_);
  over_ = true;
  answered_.notify_all();
}

std::shared_ptr<JsArbiter> arbiter_of(const Napi::Object& options) {
  Napi::Value claim = options.Get("arbiter");
  if (claim.IsUndefined()) return nullptr;
  if (!claim.IsFunction()) throw Error("EINVAL", "arbiter must be a function");
  return JsArbiter::make(options.Env(), claim.As<Napi::Function>());
}

}  // namespace hypertwin::addon
