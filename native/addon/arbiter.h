// A JavaScript arbiter as native threads ask it: one blocking question, with an answer whatever becomes of
// JavaScript.
#pragma once

#include <napi.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>

#include "env.h"
#include "migrate/arbiter.h"

namespace hypertwin::addon {

// Threads wait for a question's answer while the environment lives; its end answers for it (kUnreachable),
// before handles that were made earlier or later are closed.
class JsArbiter : public std::enable_shared_from_this<JsArbiter> {
 public:
  // `claim`: a function (key, who, answer), to call answer(0 won, 1 lost, 2 unreachable) once. JavaScript
  // thread only.
  static std::shared_ptr<JsArbiter> make(Napi::Env env, Napi::Function claim);
  ~JsArbiter();
  JsArbiter(const JsArbiter&) = delete;
  JsArbiter& operator=(const JsArbiter&) = delete;

  // For native code; keeps this. Not to be called on the JavaScript thread.
  migrate::Arbiter function();
  // Any thread: whoever waits hears kUnreachable.
  void interrupt();
  // Any thread: whoever waits, and whoever asks from now on, hears kUnreachable.
  void give_up();

 private:
  struct Question;
  explicit JsArbiter(std::shared_ptr<JsQueue> queue) : queue_(std::move(queue)) {}
  migrate::Claim ask(const std::string& key, const std::string& who);

  const std::shared_ptr<JsQueue> queue_;
  uint64_t id_ = 0;        // of the function
  uint64_t teardown_ = 0;  // JavaScript thread only
  std::mutex mutex_;       // guards the two below, and questions' answers
  std::condition_variable answered_;
  uint64_t interruptions_ = 0;
  bool over_ = false;
};

// Of an options object's property `arbiter`: a function as for make(), or undefined (nullptr).
std::shared_ptr<JsArbiter> arbiter_of(const Napi::Object& options);

}  // namespace hypertwin::addon
