// Sixteen float lanes in an AVX-512 register. Included by the kernel files of that instruction set only.
#pragma once

// gcc 12 takes its own "undefined" placeholders in these intrinsics for uninitialised reads (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include <immintrin.h>

#include "cpu/kernels.h"

namespace gossamer::cpu {
namespace {  // every kernel file has its own copy

using Vf = __m512;
constexpr int kLanes = 16;
constexpr int kTileRows = 8;  // outputs held in registers: kTileRows x kTileTokens
constexpr int kTileTokens = 3;
constexpr int kDirectTokens = 3;       // tokens of a product that takes weights from memory straight into registers
constexpr int kDirectLimitSparse = 3;  // such products up to this n; beyond, weights are expanded once into a panel
constexpr int kDirectLimitHalf = 24;   // of dense 16-bit weights: widening them again is no dearer than reading floats
constexpr bool kHalfPanels = true;
constexpr int kVecs = kStep / kLanes;

inline __mmask16 lanes_below(std::int64_t n) {
  return n >= kLanes ? static_cast<__mmask16>(0xFFFF) : static_cast<__mmask16>((1U << n) - 1U);
}

inline Vf set1(float x) { return _mm512_set1_ps(x); }
inline Vf zero() { return _mm512_setzero_ps(); }
inline Vf add(Vf a, Vf b) { return _mm512_add_ps(a, b); }
inline Vf sub(Vf a, Vf b) { return _mm512_sub_ps(a, b); }
inline Vf mul(Vf a, Vf b) { return _mm512_mul_ps(a, b); }
inline Vf div(Vf a, Vf b) { return _mm512_div_ps(a, b); }
inline Vf fma(Vf a, Vf b, Vf c) { return _mm512_fmadd_ps(a, b, c); }    // a * b + c
inline Vf fnma(Vf a, Vf b, Vf c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a * b
// As on every x86: if either is NaN the result is b.
inline Vf max(Vf a, Vf b) { return _mm512_max_ps(a, b); }
inline Vf min(Vf a, Vf b) { return _mm512_min_ps(a, b); }
inline Vf round(Vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vf times_power_of_2(Vf a, Vf n) { return _mm512_scalef_ps(a, n); }
inline Vf if_less(Vf a, Vf b, Vf then, Vf otherwise) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), otherwise, then); }

inline Vf load(const float* p) { return _mm512_loadu_ps(p); }
inline Vf load(const Float16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Vf widen_bf16(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
inline Vf load(const BFloat16* p) { return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline void store(float* p, Vf v) { _mm512_storeu_ps(p, v); }

// The first n lanes (n may exceed kLanes); the others are zero, and neither read nor written.
inline Vf load_n(const float* p, std::int64_t n) { return _mm512_maskz_loadu_ps(lanes_below(n), p); }
inline Vf load_n(const Float16* p, std::int64_t n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_below(n), p)); }
inline Vf load_n(const BFloat16* p, std::int64_t n) { return widen_bf16(_mm256_maskz_loadu_epi16(lanes_below(n), p)); }
inline void store_n(float* p, Vf v, std::int64_t n) { _mm512_mask_storeu_ps(p, lanes_below(n), v); }
inline void store_n(Float16* p, Vf v, std::int64_t n) {
  _mm256_mask_storeu_epi16(p, lanes_below(n), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_n(BFloat16* p, Vf v, std::int64_t n) {
#ifdef __AVX512BF16__
  _mm256_mask_storeu_epi16(p, lanes_below(n), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
#else
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i top = _mm512_srli_epi32(_mm512_mask_blend_epi32(nan, rounded, quiet), 16);
  _mm256_mask_storeu_epi16(p, lanes_below(n), _mm512_cvtepi32_epi16(top));
#endif
}

// The one tree: lane i + lane i+8, then i+4, i+2, i+1.
inline __m256 halves_added(Vf v) { return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)); }
inline float reduce_add(Vf v) {
  const __m256 eight = halves_added(v);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float reduce_max(Vf v) { return _mm512_reduce_max_ps(v); }

// out[r] = reduce_add(v[r]) by the same tree, eight at a time.
[[gnu::always_inline]] inline void reduce_rows(const Vf (&v)[kTileRows], float* out) {
  Vf eight[4];  // each: sums over i, i+8 of two rows
  for (int i = 0; i < 4; ++i) {
    eight[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x44), _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xEE));
  }
  Vf four[2];
  for (int i = 0; i < 2; ++i) {
    four[i] = _mm512_add_ps(_mm512_shuffle_f32x4(eight[2 * i], eight[2 * i + 1], 0x88),
                            _mm512_shuffle_f32x4(eight[2 * i], eight[2 * i + 1], 0xDD));
  }
  // 128-bit lane j of `two` holds rows j and 4 + j.
  const __m512d a = _mm512_castps_pd(four[0]);
  const __m512d b = _mm512_castps_pd(four[1]);
  const Vf two = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  const Vf one = _mm512_add_ps(two, _mm512_permute_ps(two, 0xB1));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm256_storeu_ps(out, _mm512_castps512_ps256(_mm512_permutexvar_ps(order, one)));
}
// What reduce_rows wrote, once or twice: loads as wide as its stores, which are still on their way to the cache.
inline Vf load_sums(const float* p) { return _mm512_zextps256_ps512(_mm256_loadu_ps(p)); }
inline Vf load_scores(const float* p) { return _mm512_insertf32x8(load_sums(p), _mm256_loadu_ps(p + 8), 1); }

// Sixteen-bit values to floats: a word permutation puts them into the upper halves and zeroes the lower.
[[gnu::always_inline]] inline void widen_step(__m512i v, BFloat16 /*type*/, Vf (&w)[kVecs]) {
  const __m512i low =
      _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0, 7, 0, 6, 0, 5, 0, 4, 0, 3, 0, 2, 0, 1, 0, 0, 0);
  const __m512i high =
      _mm512_set_epi16(31, 0, 30, 0, 29, 0, 28, 0, 27, 0, 26, 0, 25, 0, 24, 0, 23, 0, 22, 0, 21, 0, 20, 0, 19, 0, 18, 0, 17, 0, 16, 0);
  w[0] = _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xAAAAAAAAU, low, v));
  w[1] = _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xAAAAAAAAU, high, v));
}
[[gnu::always_inline]] inline void widen_step(__m512i v, Float16 /*type*/, Vf (&w)[kVecs]) {
  w[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(v));
  w[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(v, 1));
}

// Thirty-two small integers to floats.
[[gnu::always_inline]] inline void widen_bytes(__m256i v, Vf (&w)[kVecs]) {
  w[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(v)));
  w[1] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(v, 1)));
}
// Sixteen bytes of packed i4 as 32 signed bytes, in order.
[[gnu::always_inline]] inline __m256i signed_nibbles(const std::uint8_t* p) {
  const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i nibbles = _mm256_and_si256(_mm256_or_si256(words, _mm256_slli_epi16(words, 4)), _mm256_set1_epi8(15));
  const __m256i values = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
  return _mm256_shuffle_epi8(values, nibbles);
}
[[gnu::always_inline]] inline void load_nibbles(const std::uint8_t* p, Vf (&w)[kVecs]) { widen_bytes(signed_nibbles(p), w); }

template <typename T>
[[gnu::always_inline]] inline void load_step(const T* p, Vf (&w)[kVecs]) {
  if constexpr (sizeof(T) == 1) {
    w[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    w[1] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + kLanes))));
  } else if constexpr (sizeof(T) == 4) {
    w[0] = load(p);
    w[1] = load(p + kLanes);
  } else {
    widen_step(_mm512_loadu_si512(p), T{}, w);
  }
}

// A zero that the compiler cannot see through. Expanding into it by merging frees the expansion from its register's old value, which
// the zeroing form waits for.
inline __m512i fresh_zero() {
  __m512i z = _mm512_setzero_si512();
  asm("" : "+v"(z));
  return z;
}

[[gnu::always_inline]] inline __m256i expand_bytes(std::uint32_t mask, __m256i values) {
  return _mm256_mask_expand_epi8(_mm512_castsi512_si256(fresh_zero()), mask, values);
}
[[gnu::always_inline]] inline void expand_nibbles(std::uint32_t mask, const std::uint8_t* values, Vf (&w)[kVecs]) {
  widen_bytes(expand_bytes(mask, signed_nibbles(values)), w);
}

template <typename T>
[[gnu::always_inline]] inline void expand_step(std::uint32_t mask, const T* values, Vf (&w)[kVecs]) {
  if constexpr (sizeof(T) == 1) {
    widen_bytes(expand_bytes(mask, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values))), w);
  } else if constexpr (sizeof(T) == 4) {
    const auto low = static_cast<__mmask16>(mask);
    const auto high = static_cast<__mmask16>(mask >> 16);
    w[0] = _mm512_castsi512_ps(_mm512_mask_expand_epi32(fresh_zero(), low, _mm512_loadu_si512(values)));
    w[1] =
        _mm512_castsi512_ps(_mm512_mask_expand_epi32(fresh_zero(), high, _mm512_loadu_si512(values + __builtin_popcount(mask & 0xFFFFU))));
  } else {
    widen_step(_mm512_mask_expand_epi16(fresh_zero(), mask, _mm512_loadu_si512(values)), T{}, w);
  }
}

template <typename T>
[[gnu::always_inline]] inline void expand_to_half(std::uint32_t mask, const T* values, T* out) {
  _mm512_storeu_si512(out, _mm512_mask_expand_epi16(fresh_zero(), mask, _mm512_loadu_si512(values)));
}

// Always inline: gcc takes a function that only prefetches for one without effects and drops calls to it.
[[gnu::always_inline]] inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace
}  // namespace gossamer::cpu
