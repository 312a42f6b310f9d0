// Threads that nobody joins: they belong to the process and end with it.
#pragma once

#include <functional>
#include <string>

namespace hypertwin::libvirt {

// `name` is the thread's, as /proc shows it: at most 15 bytes. Throws std::system_error.
void start_thread(const std::string& name, std::function<void()> run);

// Where such a thread begins something new. Once exit() has begun it does not return: the thread waits for
// the end here, not in code whose data is being taken apart.
void park_at_exit();

// While one of these lives its thread, which is one of those, does something whose data exit() would take
// apart. exit() waits for it: not for long, since a call may wait for a daemon that never answers; for longer
// where it cannot.
class Working {
 public:
  enum class Kind { call, initialisation };
  explicit Working(Kind kind);
  ~Working();
  Working(const Working&) = delete;
  Working& operator=(const Working&) = delete;

 private:
  const Kind kind_;
};

}  // namespace hypertwin::libvirt
