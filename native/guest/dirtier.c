// dirtier: rounds of writes to chosen pages of a region; docs/guests.md has its options. Within the region it
// writes the named pages and no other; outside it writes only within its own image.
#include "runtime/guest.h"

enum { kPage = 4096, kMarkPort = 0x5000, kListMax = 1024, kLineMax = 1024 };

static uint64_t base, pages, count, hot, bias, state, cursor, round_number;
static uint32_t list[kListMax];
static unsigned list_size;
static enum { kSequential, kRandom, kHotSet, kList } pattern;

static void touch(uint64_t page) { *(volatile uint64_t*)(base + page * kPage) = round_number; }

static uint64_t next_random(void) {  // xorshift64
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

static void one_round(void) {
  uint64_t hot_pages = pages * hot / 100;
  if (hot_pages == 0) hot_pages = 1;
  for (uint64_t i = 0; pattern != kList && i < count; i++) {
    if (pattern == kSequential) {
      touch(cursor);
      cursor = cursor + 1 == pages ? 0 : cursor + 1;
    } else if (pattern == kRandom) {
      touch(next_random() % pages);
    } else if (next_random() % 100 < bias || hot_pages == pages) {
      touch(next_random() % hot_pages);
    } else {
      touch(hot_pages + next_random() % (pages - hot_pages));
    }
  }
  for (unsigned i = 0; pattern == kList && i < list_size; i++) touch(list[i]);
}

static void take_list(const char* p) {
  list_size = 0;
  while (*p >= '0' && *p <= '9' && list_size < kListMax) {
    uint64_t v = 0;
    for (; *p >= '0' && *p <= '9' && v < pages; p++) v = v * 10 + (uint64_t)(*p - '0');
    if (v >= pages) panic("list= names a page that is not in the region");
    list[list_size++] = (uint32_t)v;
    if (*p == ',') p++;
  }
}

// Whatever the options do not name stays as it is.
static void take_options(void) {
  base = option_number("base", base);
  pages = option_number("pages", pages);
  if (base % kPage != 0 || base < (uintptr_t)image_end || base > memory_size() || pages == 0 ||
      pages > (memory_size() - base) / kPage)
    panic("base= and pages= do not name memory behind the program");
  count = option_number("count", count);
  hot = option_number("hot", hot);
  bias = option_number("bias", bias);
  if (hot > 100 || bias > 100) panic("hot= and bias= are percentages");
  if (option("seed") != NULL) state = option_number("seed", 0);
  if (state == 0) state = 1;
  if (cursor >= pages) cursor = 0;
  if (option_is("pattern", "sequential")) pattern = kSequential;
  if (option_is("pattern", "random")) pattern = kRandom;
  if (option_is("pattern", "hotset")) pattern = kHotSet;
  if (option_is("pattern", "list")) pattern = kList;
  if (option("list") != NULL) take_list(option("list"));
}

// ---- the serial line: a line of options at a time

static volatile char input[kLineMax];
static volatile unsigned input_size;
static volatile bool line_ready;

static void on_serial(unsigned irq) {
  (void)irq;
  while ((in8(0x3fd) & 1) != 0) {
    char c = (char)in8(0x3f8);
    if (line_ready) continue;
    if (c == '\n' || c == '\r') {
      line_ready = input_size > 0;
    } else if (input_size + 1 < kLineMax) {
      input[input_size++] = c;
    }
  }
}

static bool take_line(void) {
  if (!line_ready) return false;
  input[input_size] = 0;
  replace_options((const char*)input);
  input_size = 0;
  line_ready = false;
  take_options();
  return true;
}

static uint64_t write_mark(uint64_t value) {
  out32(kMarkPort, (uint32_t)value);
  return 0;
}

void guest_main(void) {
  base = 16u << 20;
  pages = count = 1024;
  hot = 10;
  bias = 90;
  state = 1;
  take_options();
  irq_enable(4, on_serial, false);
  out8(0x3fc, 0x0b);  // DTR, RTS, OUT2
  out8(0x3f9, 1);
  bool stay = option_number("stay", 0) != 0;
  uint64_t rounds = option_number("rounds", 10);
  bool pause = option_number("pause", 0) != 0;
  if (pause) timer_start((uint32_t)option_number("hz", 20));
  put_text("dirtier image ");
  put_hex((uintptr_t)image_start);
  put_text(" to ");
  put_hex((uintptr_t)image_end);
  put_text("\n");
  for (;;) {
    for (uint64_t done = 0; rounds == 0 || done < rounds; done++) {
      if (take_line()) {
        rounds = option_number("rounds", 0);
        done = 0;
      }
      round_number++;
      one_round();
      at_cpl0(write_mark, round_number);
      if (!pause) continue;
      uint64_t tick = timer_ticks;
      while (timer_ticks == tick) idle();
    }
    put_text("dirtier done ");
    put_decimal(round_number);
    put_text("\n");
    if (!stay) return;
    while (!take_line()) idle();
    rounds = option_number("rounds", 1);
  }
}
