// hello: one line, `ticks=` timer interrupts (5), one more line, power off.
#include "runtime/guest.h"

void guest_main(void) {
  put_text("hello from hypertwin\n");
  uint64_t ticks = option_number("ticks", 5);
  if (ticks > 0) timer_start((uint32_t)option_number("hz", 100));
  while (timer_ticks < ticks) idle();
  put_text("ticks ");
  put_decimal(timer_ticks);
  put_text("\n");
}
