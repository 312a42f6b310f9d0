// exits: `count=` exits of one kind (1000), for benchmarks, then power off.
// kind=port: writes to port 0x5001; kind=in: reads of it; kind=hlt: a halt for each tick of a timer at `hz=`
// (1000); kind=mmio: 4-byte writes to physical address `at=`; kind=mmioread. cpl=0 or 3 (3) for all but hlt.
// spin=1: no power off, but a loop without an exit.
#include "runtime/guest.h"

static uint64_t count, address;

static uint64_t port_writes(uint64_t n) {
  while (n-- > 0) out8(0x5001, (uint8_t)n);
  return 0;
}

static uint64_t port_reads(uint64_t n) {
  while (n-- > 0) in8(0x5001);
  return 0;
}

static uint64_t mmio_writes(uint64_t n) {
  volatile uint32_t* p = (volatile uint32_t*)address;
  while (n-- > 0) *p = (uint32_t)n;
  return 0;
}

static uint64_t mmio_reads(uint64_t n) {
  volatile uint32_t* p = (volatile uint32_t*)address;
  while (n-- > 0) (void)*p;
  return 0;
}

static void halts(void) {
  timer_start((uint32_t)option_number("hz", 1000));
  for (uint64_t n = count; n > 0; n--) idle();
  timer_start(0);
}

void guest_main(void) {
  count = option_number("count", 1000);
  address = option_number("at", 0xd0000000);
  if (option_is("kind", "hlt")) {
    halts();
    return;
  }
  kernel_function loop = option_is("kind", "in")         ? port_reads
                         : option_is("kind", "mmio")     ? mmio_writes
                         : option_is("kind", "mmioread") ? mmio_reads
                                                         : port_writes;
  if (option_number("cpl", 3) == 0)
    at_cpl0(loop, count);
  else
    loop(count);
  if (option_number("spin", 0))
    for (;;) __asm__ volatile("");
}
