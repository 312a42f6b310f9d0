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

static void put_char(char c) { out8(0x3f8, (uint8_t)c); }

void put_text(const char* s) {
  for (; *s != 0; s++) put_char(*s);
}

void put_decimal(uint64_t v) {
  char digits[20];
  int n = 0;
  do digits[n++] = (char)('0' + v % 10);
  while ((v /= 10) != 0);
  while (n > 0) put_char(digits[--n]);
}

void put_hex(uint64_t v) {
  put_text("0x");
  int shift = 60;
  while (shift > 0 && (v >> shift) == 0) shift -= 4;
  for (; shift >= 0; shift -= 4) put_char("0123456789abcdef"[v >> shift & 15]);
}
