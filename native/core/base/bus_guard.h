// A mapped file can lose its bytes under whoever reads them: it is cut, or its disk fails. The kernel then
// sends SIGBUS. A guarded range gets a page of zeros in place of the lost one and remembers it; the process
// lives, and who mapped the file says what is lost. Signals elsewhere go on to the handler that was there
// before.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/fd.h"

namespace hypertwin {

struct BusRange;

class BusGuard {
 public:
  // Guards [data, data + size), whole pages, as long as this lives, which is not longer than the mapping.
  BusGuard(uint8_t* data, size_t size);
  ~BusGuard();
  BusGuard(const BusGuard&) = delete;
  BusGuard& operator=(const BusGuard&) = delete;

  // A page was lost.
  bool hit() const;
  // Readable from then on.
  int event() const { return event_.get(); }

 private:
  Fd event_;
  BusRange* range_;
};

}  // namespace hypertwin
