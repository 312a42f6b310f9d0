// hello: one line, `ticks=` timer interrupts (5), one more line, power off. clock=1: before that, for ever, a
// marker for each of the clock's interrupts, 256 a second.
#include "runtime/guest.h"

enum { kMarkPort = 0x5000, kClock = 8 };

static uint8_t clock_register(uint8_t index) {
  out8(0x70, index);
  return in8(0x71);
}

static void quiesce_clock(unsigned line) {
  (void)line;
  clock_register(0x0c);
}

static _Noreturn void mark_clock(void) {
  irq_enable(kClock, quiesce_clock, false);
  const uint8_t rate = clock_register(0x0a);
  out8(0x71, (uint8_t)((rate & 0xf0) | 8));
  const uint8_t wanted = clock_register(0x0b);
  out8(0x71, wanted | 0x40);
  for (uint32_t n = 1;;)
    if (idle() & 1u << kClock) out32(kMarkPort, n++);
}

void guest_main(void) {
  put_text("hello from hypertwin\n");
  if (option_number("clock", 0)) mark_clock();
  uint64_t ticks = option_number("ticks", 5);
  if (ticks > 0) timer_start((uint32_t)option_number("hz", 100));
  while (timer_ticks < ticks) idle();
  put_text("ticks ");
  put_decimal(timer_ticks);
  put_text("\n");
}
