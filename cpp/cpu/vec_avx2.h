// Eight float lanes in an AVX2 register, with FMA and F16C. Included by the kernel file of that instruction set only.
#pragma once

#include <immintrin.h>

#include "cpu/kernels.h"

namespace gossamer::cpu {
namespace {  // every kernel file has its own copy

using Vf = __m256;
constexpr int kLanes = 8;
constexpr int kTileRows = 4;  // outputs held in registers: kTileRows x kTileTokens
constexpr int kTileTokens = 3;
constexpr int kDirectTokens = 1;       // tokens of a product that takes weights from memory straight into registers
constexpr int kDirectLimitSparse = 1;  // such products up to this n; beyond, weights are expanded once into a panel
constexpr int kDirectLimitHalf = 2;    // of dense 16-bit weights
constexpr bool kHalfPanels = false;
constexpr int kVecs = kStep / kLanes;

inline __m256i lanes_below(std::int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n >= kLanes ? kLanes : static_cast<int>(n)), lane);
}

inline Vf set1(float x) { return _mm256_set1_ps(x); }
inline Vf zero() { return _mm256_setzero_ps(); }
inline Vf add(Vf a, Vf b) { return _mm256_add_ps(a, b); }
inline Vf sub(Vf a, Vf b) { return _mm256_sub_ps(a, b); }
inline Vf mul(Vf a, Vf b) { return _mm256_mul_ps(a, b); }
inline Vf div(Vf a, Vf b) { return _mm256_div_ps(a, b); }
inline Vf fma(Vf a, Vf b, Vf c) { return _mm256_fmadd_ps(a, b, c); }    // a * b + c
inline Vf fnma(Vf a, Vf b, Vf c) { return _mm256_fnmadd_ps(a, b, c); }  // c - a * b
// As on every x86: if either is NaN the result is b.
inline Vf max(Vf a, Vf b) { return _mm256_max_ps(a, b); }
inline Vf min(Vf a, Vf b) { return _mm256_min_ps(a, b); }
inline Vf round(Vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// a * 2^n for integral n in [-125, 128]: 2^128 is no float, so half of it twice.
inline Vf times_power_of_2(Vf a, Vf n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(126));
  return _mm256_mul_ps(_mm256_add_ps(a, a), _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
inline Vf if_less(Vf a, Vf b, Vf then, Vf otherwise) { return _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }

inline Vf widen(__m128i v, Float16 /*type*/) { return _mm256_cvtph_ps(v); }
inline Vf widen(__m128i v, BFloat16 /*type*/) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); }
inline Vf load(const float* p) { return _mm256_loadu_ps(p); }
inline Vf load(const std::int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
template <typename T>
inline Vf load(const T* p) {
  return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), T{});
}
inline void store(float* p, Vf v) { _mm256_storeu_ps(p, v); }

// The first n lanes (n may exceed kLanes); the others are zero, and neither read nor written.
inline Vf load_n(const float* p, std::int64_t n) { return _mm256_maskload_ps(p, lanes_below(n)); }
template <typename T>
inline Vf load_n(const T* p, std::int64_t n) {
  if (n >= kLanes) return load(p);
  alignas(16) T lanes[kLanes] = {};
  for (std::int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
inline void store_n(float* p, Vf v, std::int64_t n) { _mm256_maskstore_ps(p, lanes_below(n), v); }

inline __m128i narrowed(Vf v, Float16 /*type*/) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline __m128i narrowed(Vf v, BFloat16 /*type*/) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i top = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
}
template <typename T>
inline void store_n(T* p, Vf v, std::int64_t n) {
  const __m128i packed = narrowed(v, T{});
  if (n >= kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
    return;
  }
  alignas(16) T lanes[kLanes];
  _mm_store_si128(reinterpret_cast<__m128i*>(lanes), packed);
  for (std::int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

// The one tree: lane i + lane i+4, then i+2, i+1.
inline float reduce_add(Vf v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float reduce_max(Vf v) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// out[r] = reduce_add(v[r]) by the same tree, four at a time.
[[gnu::always_inline]] inline void reduce_rows(const Vf (&v)[kTileRows], float* out) {
  const Vf a = _mm256_add_ps(_mm256_permute2f128_ps(v[0], v[1], 0x20), _mm256_permute2f128_ps(v[0], v[1], 0x31));
  const Vf b = _mm256_add_ps(_mm256_permute2f128_ps(v[2], v[3], 0x20), _mm256_permute2f128_ps(v[2], v[3], 0x31));
  // 128-bit lane j of `two` holds rows j and 2 + j.
  const Vf two = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b))),
                               _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b))));
  const Vf one = _mm256_add_ps(two, _mm256_permute_ps(two, 0xB1));
  _mm_storeu_ps(out, _mm256_castps256_ps128(_mm256_permutevar8x32_ps(one, _mm256_setr_epi32(0, 4, 2, 6, 0, 0, 0, 0))));
}
// What two reduce_rows wrote: loads as wide as the stores, which are still on their way to the cache.
inline Vf load_sums(const float* p) { return _mm256_set_m128(_mm_loadu_ps(p + 4), _mm_loadu_ps(p)); }
inline Vf load_scores(const float* p) { return load_sums(p); }

template <typename T>
[[gnu::always_inline]] inline void load_step(const T* p, Vf (&w)[kVecs]) {
  for (int i = 0; i < kVecs; ++i) w[i] = load(p + i * kLanes);
}

// Sixteen bytes of packed i4 as 32 signed bytes, in order.
[[gnu::always_inline]] inline __m256i signed_nibbles(const std::uint8_t* p) {
  const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i nibbles = _mm256_and_si256(_mm256_or_si256(words, _mm256_slli_epi16(words, 4)), _mm256_set1_epi8(15));
  const __m256i values = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
  return _mm256_shuffle_epi8(values, nibbles);
}
[[gnu::always_inline]] inline void load_nibbles(const std::uint8_t* p, Vf (&w)[kVecs]) {
  alignas(32) std::int8_t bytes[kStep];
  _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), signed_nibbles(p));
  load_step(bytes, w);
}

// For every mask of eight lanes, the packed value that each lane takes; 0x80 = none.
struct ExpandTable {
  alignas(64) std::int8_t source[256][8];
};
constexpr ExpandTable make_expand_table() {
  ExpandTable table{};
  for (int mask = 0; mask < 256; ++mask) {
    std::int8_t next = 0;
    for (int lane = 0; lane < 8; ++lane) table.source[mask][lane] = (mask >> lane & 1) != 0 ? next++ : std::int8_t{-128};
  }
  return table;
}
constexpr ExpandTable kExpandTable = make_expand_table();

template <typename T>
[[gnu::always_inline]] inline void expand_step(std::uint32_t mask, const T* values, Vf (&w)[kVecs]) {
  for (int i = 0; i < kVecs; ++i) {
    const std::uint32_t byte = mask >> (8 * i) & 0xFFU;
    const __m256i source = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpandTable.source[byte])));
    const Vf spread = _mm256_permutevar8x32_ps(load(values), source);
    w[i] = _mm256_blendv_ps(spread, _mm256_setzero_ps(), _mm256_castsi256_ps(source));
    values += __builtin_popcount(byte);
  }
}

[[gnu::always_inline]] inline void expand_nibbles(std::uint32_t mask, const std::uint8_t* values, Vf (&w)[kVecs]) {
  alignas(32) std::int8_t bytes[kStep + kLanes];  // loads of the last lanes may reach past the last value
  _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), signed_nibbles(values));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(bytes + kStep), _mm_setzero_si128());
  expand_step(mask, bytes, w);
}

template <typename T>
void expand_to_half(std::uint32_t mask, const T* values, T* out);  // kHalfPanels is false

// Always inline: gcc takes a function that only prefetches for one without effects and drops calls to it.
[[gnu::always_inline]] inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace
}  // namespace gossamer::cpu
