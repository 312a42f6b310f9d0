// Memory and text helpers, and the 16550A as an output.
#include "guest.h"

void* memcpy(void* to, const void* from, size_t size) {
  void* d = to;
  __asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(size)::"memory");
  return to;
}

void* memset(void* to, int value, size_t size) {
  void* d = to;
  __asm__ volatile("rep stosb" : "+D"(d), "+c"(size) : "a"(value) : "memory");
  return to;
}

void* memmove(void* to, const void* from, size_t size) {
  if ((uintptr_t)to - (uintptr_t)from >= size) return memcpy(to, from, size);
  uint8_t* d = to;
  const uint8_t* s = from;
  while (size-- > 0) d[size] = s[size];
  return to;
}

int memcmp(const void* a, const void* b, size_t size) {
  const uint8_t *x = a, *y = b;
  for (size_t i = 0; i < size; i++)
    if (x[i] != y[i]) return x[i] - y[i];
  return 0;
}

size_t strlen(const char* s) {
  size_t n = 0;
  while (s[n] != 0) n++;
  return n;
}

static uint64_t put_at_cpl0(uint64_t s) {
  for (const char* p = (const char*)s; *p != 0; p++) out8(0x3f8, (uint8_t)*p);
  return 0;
}

void put_text(const char* s) {
  if (in_kernel())
    put_at_cpl0((uintptr_t)s);
  else
    at_cpl0(put_at_cpl0, (uintptr_t)s);
}

void put_decimal(uint64_t v) {
  char digits[21];
  char* p = digits + sizeof digits - 1;
  *p = 0;
  do *--p = (char)('0' + v % 10);
  while ((v /= 10) != 0);
  put_text(p);
}

void put_hex(uint64_t v) {
  char digits[19];
  char* p = digits + sizeof digits - 1;
  *p = 0;
  do *--p = "0123456789abcdef"[v & 15];
  while ((v >>= 4) != 0);
  *--p = 'x';
  *--p = '0';
  put_text(p);
}
