// Which thread signals to the process reach.
#pragma once

#include <signal.h>

namespace hypertwin::base {

// Threads that are begun while it lives leave the signals that are sent to the process to the threads that
// were there before. Faults, and the signals that threads send each other, stay as they are.
class KeepSignals {
 public:
  KeepSignals();
  ~KeepSignals();
  KeepSignals(const KeepSignals&) = delete;
  KeepSignals& operator=(const KeepSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace hypertwin::base
