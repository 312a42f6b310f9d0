#include "dirty/bitmap.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hypertwin::dirty {

namespace {

struct Scans {
  uint64_t (*popcount)(const uint64_t*, size_t);
  void (*merge)(uint64_t*, const uint64_t*, size_t);
  uint64_t (*merge_count_new)(uint64_t*, const uint64_t*, size_t);
  size_t (*find_other_than)(const uint64_t*, size_t, size_t, uint64_t);
};

uint64_t popcount_portable(const uint64_t* words, size_t n) {
  uint64_t count = 0;
  for (size_t i = 0; i < n; ++i) count += static_cast<unsigned>(std::popcount(words[i]));
  return count;
}

void merge_portable(uint64_t* into, const uint64_t* from, size_t n) {
  for (size_t i = 0; i < n; ++i) into[i] |= from[i];
}

uint64_t merge_count_new_portable(uint64_t* into, const uint64_t* from, size_t n) {
  uint64_t count = 0;
  for (size_t i = 0; i < n; ++i) {
    count += static_cast<unsigned>(std::popcount(from[i] & ~into[i]));
    into[i] |= from[i];
  }
  return count;
}

size_t find_other_than_portable(const uint64_t* words, size_t i, size_t n, uint64_t value) {
  while (i < n && words[i] == value) ++i;
  return i;
}

constexpr Scans kPortable{popcount_portable, merge_portable, merge_count_new_portable,
                          find_other_than_portable};

#if defined(__x86_64__)

#define HT_AVX2 __attribute__((target("avx2,popcnt,bmi")))

HT_AVX2 inline __m256i load(const uint64_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

// Bits of each 64-bit lane: a table look-up for each half byte, then sums of the eight bytes.
HT_AVX2 inline __m256i popcount_lanes(__m256i value) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2,
                                         3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_set1_epi8(15);
  __m256i bytes =
      _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(value, low)),
                      _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(value, 4), low)));
  return _mm256_sad_epu8(bytes, _mm256_setzero_si256());
}

HT_AVX2 inline uint64_t sum_lanes(__m256i lanes) {
  __m128i two = _mm_add_epi64(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  return static_cast<uint64_t>(_mm_cvtsi128_si64(two)) + static_cast<uint64_t>(_mm_extract_epi64(two, 1));
}

HT_AVX2 uint64_t popcount_avx2(const uint64_t* words, size_t n) {
  __m256i a = _mm256_setzero_si256(), b = a;
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    a = _mm256_add_epi64(a, popcount_lanes(load(words + i)));
    b = _mm256_add_epi64(b, popcount_lanes(load(words + i + 4)));
  }
  uint64_t count = sum_lanes(_mm256_add_epi64(a, b));
  for (; i < n; ++i) count += static_cast<unsigned>(std::popcount(words[i]));
  return count;
}

HT_AVX2 void merge_avx2(uint64_t* into, const uint64_t* from, size_t n) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(into + i),
                        _mm256_or_si256(load(into + i), load(from + i)));
  for (; i < n; ++i) into[i] |= from[i];
}

HT_AVX2 uint64_t merge_count_new_avx2(uint64_t* into, const uint64_t* from, size_t n) {
  __m256i sum = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    __m256i old = load(into + i), more = load(from + i);
    sum = _mm256_add_epi64(sum, popcount_lanes(_mm256_andnot_si256(old, more)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(into + i), _mm256_or_si256(old, more));
  }
  return sum_lanes(sum) + merge_count_new_portable(into + i, from + i, n - i);
}

HT_AVX2 size_t find_other_than_avx2(const uint64_t* words, size_t i, size_t n, uint64_t value) {
  const __m256i same = _mm256_set1_epi64x(static_cast<long long>(value));
  for (; i + 16 <= n; i += 16) {
    __m256i differs = _mm256_or_si256(
        _mm256_or_si256(_mm256_xor_si256(load(words + i), same), _mm256_xor_si256(load(words + i + 4), same)),
        _mm256_or_si256(_mm256_xor_si256(load(words + i + 8), same),
                        _mm256_xor_si256(load(words + i + 12), same)));
    if (!_mm256_testz_si256(differs, differs)) break;
  }
  while (i < n && words[i] == value) ++i;
  return i;
}

constexpr Scans kAvx2{popcount_avx2, merge_avx2, merge_count_new_avx2, find_other_than_avx2};

#if defined(__clang__) && __clang_major__ >= 18 && __clang_major__ < 22
#define HT_EVEX512 ",evex512"  // clang had 512-bit vectors as a feature of their own
#else
#define HT_EVEX512
#endif
#define HT_AVX512 __attribute__((target("avx512f,avx512vpopcntdq,avx2,popcnt,bmi" HT_EVEX512)))

HT_AVX512 uint64_t popcount_avx512(const uint64_t* words, size_t n) {
  __m512i a = _mm512_setzero_si512(), b = a;
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    a = _mm512_add_epi64(a, _mm512_popcnt_epi64(_mm512_loadu_si512(words + i)));
    b = _mm512_add_epi64(b, _mm512_popcnt_epi64(_mm512_loadu_si512(words + i + 8)));
  }
  uint64_t lanes[8];
  _mm512_storeu_si512(lanes, _mm512_add_epi64(a, b));
  uint64_t count = 0;
  for (uint64_t lane : lanes) count += lane;
  for (; i < n; ++i) count += static_cast<unsigned>(std::popcount(words[i]));
  return count;
}

constexpr Scans kAvx512{popcount_avx512, merge_avx2, merge_count_new_avx2, find_other_than_avx2};
#endif

bool has(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
  if (isa == Isa::kAvx2) return avx2;
  if (isa == Isa::kAvx512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vpopcntdq");
#endif
  return isa == Isa::kPortable;
}

const Scans& scans_of([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) return kAvx2;
  if (isa == Isa::kAvx512) return kAvx512;
#endif
  return kPortable;
}

const Scans*& scans() {
  static const Scans* chosen = &scans_of(best_isa());
  return chosen;
}

}  // namespace

Isa best_isa() { return has(Isa::kAvx512) ? Isa::kAvx512 : has(Isa::kAvx2) ? Isa::kAvx2 : Isa::kPortable; }

bool use_isa(Isa isa) {
  if (!has(isa)) return false;
  scans() = &scans_of(isa);
  return true;
}

uint64_t popcount(std::span<const uint64_t> words) { return scans()->popcount(words.data(), words.size()); }

void merge(std::span<uint64_t> into, std::span<const uint64_t> from) {
  scans()->merge(into.data(), from.data(), from.size());
}

uint64_t merge_count_new(std::span<uint64_t> into, std::span<const uint64_t> from) {
  return scans()->merge_count_new(into.data(), from.data(), from.size());
}

size_t find_other_than(std::span<const uint64_t> words, size_t from, uint64_t value) {
  return scans()->find_other_than(words.data(), from, words.size(), value);
}

}  // namespace hypertwin::dirty
