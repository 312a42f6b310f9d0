#include "base/signals.h"

#include <pthread.h>

#include <initializer_list>

namespace hypertwin::base {

KeepSignals::KeepSignals() {
  sigset_t process_signals;
  sigemptyset(&process_signals);
  for (int signal : {SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGALRM, SIGTERM, SIGCHLD, SIGCONT, SIGTSTP, SIGTTIN,
                     SIGTTOU, SIGWINCH, SIGIO})
    sigaddset(&process_signals, signal);
  pthread_sigmask(SIG_BLOCK, &process_signals, &before_);
}

KeepSignals::~KeepSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

}  // namespace hypertwin::base
