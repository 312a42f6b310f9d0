// What a payload (code at CPL 3) may use. Payload and CPL 0 part are one program and share all memory: CPL 3
// is for speed, not for protection.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// ---- ports; the TSS bitmap and IOPL open all of them to CPL 3
static inline void out8(uint16_t port, uint8_t v) {
  __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port) : "memory");
}
static inline void out16(uint16_t port, uint16_t v) {
  __asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port) : "memory");
}
static inline void out32(uint16_t port, uint32_t v) {
  __asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port) : "memory");
}
static inline uint8_t in8(uint16_t port) {
  uint8_t v;
  __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
  return v;
}
static inline uint16_t in16(uint16_t port) {
  uint16_t v;
  __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
  return v;
}
static inline uint32_t in32(uint16_t port) {
  uint32_t v;
  __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
  return v;
}

// ---- memory, in text.c
void* memcpy(void* to, const void* from, size_t size);
void* memset(void* to, int value, size_t size);
void* memmove(void* to, const void* from, size_t size);
int memcmp(const void* a, const void* b, size_t size);
size_t strlen(const char* s);

// ---- text on the serial port, in text.c; works at either CPL
void put_text(const char* s);
void put_decimal(uint64_t v);
void put_hex(uint64_t v);

// ---- the machine, in kernel.c
void guest_main(void);  // the payload: power_off() follows its return
_Noreturn void power_off(void);
_Noreturn void panic(const char* what);

// Runs fn(arg) at CPL 0 with interrupts off. From CPL 3 only.
typedef uint64_t (*kernel_function)(uint64_t arg);
uint64_t at_cpl0(kernel_function fn, uint64_t arg);

bool in_kernel(void);

// A port exit costs a third at CPL 0. So writes that may wait (queue notifications) are collected, equal ones
// once, and done at CPL 0 by the next idle() or flush_deferred().
void defer_out16(uint16_t port, uint16_t value);
void flush_deferred(void);

// Halts until an interrupt has come; the lines that came since the last call, one bit each, maybe none.
uint32_t idle(void);

// `quiesce` (or NULL) runs at CPL 0 for each interrupt of the line, before its end is signalled; it makes a
// level-triggered source let go of the line.
void irq_enable(unsigned line, void (*quiesce)(unsigned line), bool level);

// The PIT's channel 0 as a periodic source of IRQ 0, 19 to 1193182 Hz. 0 stops it.
void timer_start(uint32_t hz);
extern volatile uint64_t timer_ticks;

// A fault at an instruction in [fixup_from, fixup_to) goes on at fixup_to with its vector here, in place of a
// panic.
extern uintptr_t fixup_from, fixup_to;
extern volatile int fault_vector;

// ---- what the boot told us
uint64_t memory_size(void);                                   // bytes of RAM from address 0
const char* option(const char* name);                         // "v" of name=v, ended by space or 0; or NULL
uint64_t option_number(const char* name, uint64_t fallback);  // decimal, 0x hexadecimal, suffix K or M
bool option_is(const char* name, const char* value);
// Options come from this line from now on.
void replace_options(const char* line);
extern char image_start[], image_end[];  // the program; free memory lies behind it
