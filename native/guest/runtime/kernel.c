// The CPL 0 part: descriptor tables, interrupt controllers, timer, idling, faults, boot parameters. Handlers
// only quiet the source, signal the end and set a flag: work is done by the payload at CPL 3.
#include "guest.h"

enum { kCodeSelector = 0x08, kTaskSelector = 0x28, kIrqBase = 0x20, kBreakpoint = 3 };

struct __attribute__((packed)) gate {
  uint16_t low, selector;
  uint8_t stack, type;
  uint16_t middle;
  uint32_t high, reserved;
};
struct __attribute__((packed)) task_state {
  uint32_t reserved0;
  uint64_t rsp0, rsp1, rsp2, reserved1, ist[7], reserved2;
  uint16_t reserved3, bitmap_offset;
  uint8_t bitmap[8192 + 1];
};
struct __attribute__((packed)) table_pointer {
  uint16_t limit;
  uint64_t base;
};
struct fault_frame {
  uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15;
  uint64_t vector, error, rip, cs, rflags, rsp, ss;
};
struct start_info {  // hvm_start_info of the PVH protocol
  uint32_t magic, version, flags, modules;
  uint64_t module_list, command_line, rsdp, memory_map;
  uint32_t memory_map_entries, reserved;
};
struct memory_range {
  uint64_t base, size;
  uint32_t type, reserved;
};

extern uint64_t gdt[];
extern char irq_stubs[], fault_stubs[], kernel_stack_top[];
void system_call_stub(void);
void kernel_start(const struct start_info* info);
void irq_handler(uint32_t line);
void fault_handler(struct fault_frame* f);

static struct gate idt[kIrqBase + 16];
static struct task_state tss;
static void (*quiesce_of[16])(unsigned line);
static uint64_t ram_size;
static char command_line[1024];
static bool auto_eoi;

volatile uint32_t irq_pending;
volatile uint64_t timer_ticks;
uintptr_t fixup_from, fixup_to;
volatile int fault_vector = -1;

// ---- boot

static void set_gate(unsigned vector, const void* handler, unsigned dpl) {
  uint64_t a = (uintptr_t)handler;
  idt[vector] = (struct gate){.low = (uint16_t)a,
                              .selector = kCodeSelector,
                              .type = (uint8_t)(0x8e | dpl << 5),
                              .middle = (uint16_t)(a >> 16),
                              .high = (uint32_t)(a >> 32)};
}

static void read_start_info(const struct start_info* info) {
  if (info->magic != 0x336ec578) panic("no PVH start info");
  const char* line = (const char*)(uintptr_t)info->command_line;
  for (size_t i = 0; line != NULL && i + 1 < sizeof command_line && line[i] != 0; i++)
    command_line[i] = line[i];
  const struct memory_range* map = (const struct memory_range*)(uintptr_t)info->memory_map;
  for (uint32_t i = 0; info->version >= 1 && map != NULL && i < info->memory_map_entries && i < 128; i++)
    if (map[i].type == 1 && map[i].base <= (uintptr_t)image_start && map[i].base + map[i].size > ram_size)
      ram_size = map[i].base + map[i].size;
  ram_size = option_number("mem", ram_size);
  if (ram_size < (uintptr_t)image_end) panic("too little memory, or its size unknown: mem=");
}

static void start_interrupt_controllers(void) {
  // ICW4 bit 1, automatic end of interrupt, saves one or two exits an interrupt. Handlers run with interrupts
  // off and quiet a level-triggered source first, so it does not come twice.
  auto_eoi = !option_is("eoi", "manual");
  uint8_t icw4 = auto_eoi ? 3 : 1;
  out8(0x20, 0x11);
  out8(0x21, kIrqBase);
  out8(0x21, 4);
  out8(0x21, icw4);
  out8(0xa0, 0x11);
  out8(0xa1, kIrqBase + 8);
  out8(0xa1, 2);
  out8(0xa1, icw4);
  out8(0x21, 0xfb);
  out8(0xa1, 0xff);
}

void kernel_start(const struct start_info* info) {
  for (unsigned i = 0; i < 32; i++) set_gate(i, fault_stubs + 16 * i, 0);
  for (unsigned i = 0; i < 16; i++) set_gate(kIrqBase + i, irq_stubs + 16 * i, 0);
  set_gate(kBreakpoint, (const void*)(uintptr_t)system_call_stub, 3);
  const struct table_pointer idt_pointer = {sizeof idt - 1, (uintptr_t)idt};
  __asm__ volatile("lidt %0" ::"m"(idt_pointer));

  tss.rsp0 = (uintptr_t)kernel_stack_top;
  tss.bitmap_offset = offsetof(struct task_state, bitmap);
  tss.bitmap[8192] = 0xff;
  uint64_t base = (uintptr_t)&tss, limit = sizeof tss - 1;
  gdt[5] = (limit & 0xffff) | (base & 0xffffff) << 16 | 0x89ULL << 40 | (base >> 24 & 0xff) << 56;
  gdt[6] = base >> 32;
  __asm__ volatile("ltr %w0" ::"r"(kTaskSelector));

  out8(0x3f9, 0);     // no serial interrupts
  out8(0x3fb, 0x80);  // 115200 baud, 8n1
  out8(0x3f8, 1);
  out8(0x3f9, 0);
  out8(0x3fb, 3);
  out8(0x3fa, 7);
  read_start_info(info);
  start_interrupt_controllers();
}

// ---- interrupts and faults

void irq_handler(uint32_t line) {
  if (quiesce_of[line] != NULL) quiesce_of[line](line);
  if (line == 0) timer_ticks++;
  if (!auto_eoi) {
    if (line >= 8) out8(0xa0, (uint8_t)(0x60 | (line - 8)));
    out8(0x20, (uint8_t)(0x60 | (line >= 8 ? 2 : line)));
  }
  irq_pending |= 1u << line;
}

void irq_enable(unsigned line, void (*quiesce)(unsigned line), bool level) {
  quiesce_of[line] = quiesce;
  uint16_t elcr = (uint16_t)(0x4d0 + line / 8), mask = line < 8 ? 0x21 : 0xa1;
  uint8_t bit = (uint8_t)(1u << line % 8);
  if (level) out8(elcr, in8(elcr) | bit);
  out8(mask, in8(mask) & (uint8_t)~bit);
}

void fault_handler(struct fault_frame* f) {
  if (f->rip >= fixup_from && f->rip < fixup_to) {
    fault_vector = (int)f->vector;
    f->rip = fixup_to;
    return;
  }
  uint64_t cr2;
  __asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
  put_text("\nfault vector ");
  put_decimal(f->vector);
  put_text(" error ");
  put_hex(f->error);
  put_text(" rip ");
  put_hex(f->rip);
  put_text(" cs ");
  put_hex(f->cs);
  put_text(" cr2 ");
  put_hex(cr2);
  put_text("\n");
  for (;;) __asm__ volatile("cli; hlt");
}

static uint64_t halt_for_ever(uint64_t arg) {
  for (;;) __asm__ volatile("cli; hlt");
  return arg;
}

bool in_kernel(void) {
  uint64_t cs;
  __asm__("mov %%cs, %0" : "=r"(cs));
  return (cs & 3) == 0;
}

void panic(const char* what) {
  put_text("\npanic: ");
  put_text(what);
  put_text("\n");
  if (in_kernel()) halt_for_ever(0);
  for (;;) at_cpl0(halt_for_ever, 0);
}

void power_off(void) {
  out16(0x604, 0x2000);
  panic("power off did not work");
}

// ---- services

uint64_t at_cpl0(kernel_function fn, uint64_t arg) {
  __asm__ volatile("int3"
                   : "+a"(fn), "+D"(arg)::"rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
  return (uint64_t)fn;
}

static struct { uint16_t port, value; } deferred[8];
static unsigned deferred_count;

static uint64_t write_deferred(uint64_t arg) {
  for (unsigned i = 0; i < deferred_count; i++) out16(deferred[i].port, deferred[i].value);
  deferred_count = 0;
  return arg;
}

// "sti; hlt" leaves no gap in which an interrupt could be missed; where a host makes one (QEMU's SVM forgets
// that the instruction behind sti is not interrupted), irq_common goes on behind the hlt.
static uint64_t kernel_idle(uint64_t arg) {
  write_deferred(arg);
  if (irq_pending == 0)
    __asm__ volatile(
        "sti\n"
        ".global idle_halt, idle_awake\n"
        "idle_halt: hlt\n"
        "idle_awake: cli" ::
            : "memory");
  uint32_t lines = irq_pending;
  irq_pending = 0;
  return lines;
}

void defer_out16(uint16_t port, uint16_t value) {
  for (unsigned i = 0; i < deferred_count; i++)
    if (deferred[i].port == port && deferred[i].value == value) return;
  if (deferred_count == sizeof deferred / sizeof deferred[0]) flush_deferred();
  deferred[deferred_count].port = port;
  deferred[deferred_count++].value = value;
}

void flush_deferred(void) {
  if (deferred_count > 0) at_cpl0(write_deferred, 0);
}

uint32_t idle(void) { return (uint32_t)at_cpl0(kernel_idle, 0); }

void timer_start(uint32_t hz) {
  if (hz == 0) {
    out8(0x43, 0x30);  // mode 0 without a count: no more edges
    return;
  }
  uint32_t count = 1193182 / hz;
  if (count > 0xffff) count = 0;  // 65536
  irq_enable(0, NULL, false);
  out8(0x43, 0x34);
  out8(0x40, (uint8_t)count);
  out8(0x40, (uint8_t)(count >> 8));
}

uint64_t memory_size(void) { return ram_size; }

const char* option(const char* name) {
  size_t n = strlen(name);
  for (const char* p = command_line; *p != 0;) {
    if (memcmp(p, name, n) == 0 && p[n] == '=') return p + n + 1;
    while (*p != 0 && *p != ' ') p++;
    while (*p == ' ') p++;
  }
  return NULL;
}

void replace_options(const char* line) {
  size_t n = strlen(line);
  if (n >= sizeof command_line) n = sizeof command_line - 1;
  memmove(command_line, line, n);
  command_line[n] = 0;
}

uint64_t option_number(const char* name, uint64_t fallback) {
  const char* p = option(name);
  if (p == NULL) return fallback;
  uint64_t v = 0;
  if (p[0] == '0' && p[1] == 'x') {
    for (p += 2;; p++) {
      int digit = *p >= '0' && *p <= '9'                 ? *p - '0'
                  : (*p | 32) >= 'a' && (*p | 32) <= 'f' ? (*p | 32) - 'a' + 10
                                                         : -1;
      if (digit < 0) break;
      v = v * 16 + (uint64_t)digit;
    }
  } else {
    for (; *p >= '0' && *p <= '9'; p++) v = v * 10 + (uint64_t)(*p - '0');
  }
  if ((*p | 32) == 'k') v <<= 10;
  if ((*p | 32) == 'm') v <<= 20;
  return v;
}

bool option_is(const char* name, const char* value) {
  const char* p = option(name);
  size_t n = strlen(value);
  return p != NULL && memcmp(p, value, n) == 0 && (p[n] == 0 || p[n] == ' ');
}
