// probe: executes, one by one, the instructions that threaten determinism, and says on the serial line what
// each gave: "name value..." or "name fault vector". only=name picks one; repeat=N (1) repeats.
#include "runtime/guest.h"

struct registers {
  uint64_t a, b, c, d;
};

// Executes `code`; a fault in it ends it, and shows in fault_vector.
#define ATTEMPT(r, code)                                              \
  __asm__ volatile(                                                   \
      "leaq 1f(%%rip), %%r8\n\tmovq %%r8, fixup_from(%%rip)\n\t"      \
      "leaq 2f(%%rip), %%r8\n\tmovq %%r8, fixup_to(%%rip)\n1:\t" code \
      "\n2:\t"                                                        \
      "movq $0, fixup_to(%%rip)"                                      \
      : "+a"((r)->a), "+b"((r)->b), "+c"((r)->c), "+d"((r)->d)        \
      :                                                               \
      : "r8", "rsi", "rdi", "memory", "cc")

static uint8_t scratch[64];
extern uint64_t page_map_l2[];

static void p_rdtsc(struct registers* r) { ATTEMPT(r, "rdtsc; shlq $32, %%rdx; orq %%rdx, %%rax"); }
static void p_rdtscp(struct registers* r) {
  ATTEMPT(r, "rdtscp; shlq $32, %%rdx; orq %%rdx, %%rax; movq %%rcx, %%rbx");
}
static void p_rdrand(struct registers* r) { ATTEMPT(r, "rdrand %%rax; setc %%bl"); }
static void p_rdseed(struct registers* r) { ATTEMPT(r, "rdseed %%rax; setc %%bl"); }
static void p_cpuid(struct registers* r) { ATTEMPT(r, "cpuid"); }
static void p_rdpmc(struct registers* r) { ATTEMPT(r, "rdpmc; shlq $32, %%rdx; orq %%rdx, %%rax"); }
static void p_rdpid(struct registers* r) { ATTEMPT(r, ".byte 0xf3, 0x0f, 0xc7, 0xf8"); }  // rdpid %rax
static void p_xgetbv(struct registers* r) { ATTEMPT(r, "xgetbv; shlq $32, %%rdx; orq %%rdx, %%rax"); }
static void p_smsw(struct registers* r) { ATTEMPT(r, "smsw %%rax"); }
static void p_str(struct registers* r) { ATTEMPT(r, "str %%rax"); }
static void p_sldt(struct registers* r) { ATTEMPT(r, "sldt %%rax"); }
static void p_pushf(struct registers* r) { ATTEMPT(r, "pushfq; popq %%rax"); }
static void p_rdmsr(struct registers* r) { ATTEMPT(r, "rdmsr; shlq $32, %%rdx; orq %%rdx, %%rax"); }
static void p_mov_cr4(struct registers* r) { ATTEMPT(r, "movq %%cr4, %%rax"); }
static void p_sgdt(struct registers* r) {
  r->b = (uintptr_t)scratch;
  ATTEMPT(r, "sgdt (%%rbx); movq 2(%%rbx), %%rax; movzwl (%%rbx), %%ebx");
}
static void p_sidt(struct registers* r) {
  r->b = (uintptr_t)scratch;
  ATTEMPT(r, "sidt (%%rbx); movq 2(%%rbx), %%rax; movzwl (%%rbx), %%ebx");
}
static void p_pit(struct registers* r) {
  ATTEMPT(r,
          "xorl %%eax, %%eax; outb %%al, $0x43; inb $0x40, %%al; movb %%al, %%bl; inb $0x40, %%al;"
          "movb %%al, %%bh; movzwl %%bx, %%eax");
}
static void p_rtc(struct registers* r) { ATTEMPT(r, "xorl %%eax, %%eax; outb %%al, $0x70; inb $0x71, %%al"); }

static uint64_t set_mapping(uint64_t entry) {
  uint64_t address = memory_size() - 1;
  page_map_l2[address >> 21] = entry;
  __asm__ volatile("invlpg (%0)" ::"r"(address) : "memory");
  return 0;
}

// A string move whose second half runs into an unmapped page: the fault leaves it half done. RAX: bytes left.
static void p_movs(struct registers* r) {
  uint64_t edge = (memory_size() - 1) & ~(uint64_t)0x1fffff, entry = edge | 0xe7;
  if (edge < (uintptr_t)image_end + 0x1000) {
    r->a = ~0ULL;
    return;
  }
  at_cpl0(set_mapping, 0);
  r->a = edge - 16;
  r->b = (uintptr_t)scratch;
  r->c = 32;
  ATTEMPT(r, "movq %%rax, %%rdi; movq %%rbx, %%rsi; rep movsb");
  r->a = r->c;
  at_cpl0(set_mapping, entry);
}

struct probe {
  const char* name;
  void (*run)(struct registers*);
  uint32_t eax, ecx;
  unsigned values;  // registers to show
  bool kernel;      // at CPL 0
};

static const struct probe kProbes[] = {
    {"rdtsc", p_rdtsc, 0, 0, 1, false},
    {"rdtscp", p_rdtscp, 0, 0, 2, false},
    {"rdrand", p_rdrand, 0, 0, 2, false},
    {"rdseed", p_rdseed, 0, 0, 2, false},
    {"cpuid-0", p_cpuid, 0, 0, 4, false},
    {"cpuid-1", p_cpuid, 1, 0, 4, false},
    {"cpuid-7", p_cpuid, 7, 0, 4, false},
    {"cpuid-b", p_cpuid, 0xb, 0, 4, false},
    {"cpuid-15", p_cpuid, 0x15, 0, 4, false},
    {"cpuid-16", p_cpuid, 0x16, 0, 4, false},
    {"cpuid-1f", p_cpuid, 0x1f, 0, 4, false},
    {"cpuid-40000000", p_cpuid, 0x40000000, 0, 4, false},
    {"cpuid-40000001", p_cpuid, 0x40000001, 0, 4, false},
    {"cpuid-80000007", p_cpuid, 0x80000007, 0, 4, false},
    {"rdpmc", p_rdpmc, 0, 0, 1, false},
    {"rdpid", p_rdpid, 0, 0, 1, false},
    {"xgetbv", p_xgetbv, 0, 0, 1, false},
    {"xgetbv-1", p_xgetbv, 0, 1, 1, false},
    {"sgdt", p_sgdt, 0, 0, 2, false},
    {"sidt", p_sidt, 0, 0, 2, false},
    {"sldt", p_sldt, 0, 0, 1, false},
    {"smsw", p_smsw, 0, 0, 1, false},
    {"str", p_str, 0, 0, 1, false},
    {"pushf", p_pushf, 0, 0, 1, false},
    {"pit", p_pit, 0, 0, 1, false},
    {"rtc", p_rtc, 0, 0, 1, false},
    {"movs", p_movs, 0, 0, 1, false},
    {"cpl0-rdtsc", p_rdtsc, 0, 0, 1, true},
    {"cpl0-cpuid-1", p_cpuid, 1, 0, 4, true},
    {"cpl0-mov-cr4", p_mov_cr4, 0, 0, 1, true},
    {"cpl0-rdmsr-10", p_rdmsr, 0, 0x10, 1, true},
    {"cpl0-rdmsr-1b", p_rdmsr, 0, 0x1b, 1, true},
    {"cpl0-rdpmc", p_rdpmc, 0, 0, 1, true},
};

static const struct probe* current;
static struct registers result;

static uint64_t run_current(uint64_t arg) {
  current->run(&result);
  return arg;
}

static void report(void) {
  fault_vector = -1;
  result = (struct registers){.a = current->eax, .c = current->ecx};
  if (current->kernel)
    at_cpl0(run_current, 0);
  else
    run_current(0);
  put_text(current->name);
  if (fault_vector >= 0) {
    put_text(" fault ");
    put_decimal((uint64_t)fault_vector);
  }
  // The interrupted string move tells by what is left.
  if (fault_vector < 0 || current->run == p_movs) {
    const uint64_t values[] = {result.a, result.b, result.c, result.d};
    for (unsigned i = 0; i < current->values; i++) {
      put_text(" ");
      put_hex(values[i]);
    }
  }
  put_text("\n");
}

void guest_main(void) {
  const char* only = option("only");
  for (uint64_t n = option_number("repeat", 1); n > 0; n--)
    for (current = kProbes; current < kProbes + sizeof kProbes / sizeof kProbes[0]; current++)
      if (only == NULL || option_is("only", current->name)) report();
}
