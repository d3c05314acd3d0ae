// Four float lanes in plain C++, for any CPU. Included by the portable kernel file only.
#pragma once

#include <cmath>

#include "cpu/kernels.h"

namespace gossamer::cpu {
namespace {  // every kernel file has its own copy

constexpr int kLanes = 4;
constexpr int kTileRows = 4;  // outputs held in registers: kTileRows x kTileTokens
constexpr int kTileTokens = 2;
constexpr int kDirectTokens = 1;       // tokens of a product that takes weights from memory straight into registers
constexpr int kDirectLimitSparse = 0;  // such products up to this n; beyond, weights are expanded once into a panel
constexpr int kDirectLimitHalf = 0;    // of dense 16-bit weights
constexpr bool kHalfPanels = false;
constexpr int kVecs = kStep / kLanes;

// A vector type of gcc and clang: whatever four-lane registers the target has.
using Vf = float __attribute__((vector_size(16)));

template <typename F>
inline Vf each(const F& f) {
  return Vf{f(0), f(1), f(2), f(3)};
}

inline Vf set1(float x) { return Vf{x, x, x, x}; }
inline Vf zero() { return set1(0.0F); }
inline Vf add(Vf a, Vf b) { return a + b; }
inline Vf sub(Vf a, Vf b) { return a - b; }
inline Vf mul(Vf a, Vf b) { return a * b; }
inline Vf div(Vf a, Vf b) { return a / b; }
// Not fused: two roundings, the same on every CPU.
inline Vf fma(Vf a, Vf b, Vf c) { return a * b + c; }
inline Vf fnma(Vf a, Vf b, Vf c) { return c - a * b; }
// If either is NaN the result is b.
inline Vf max(Vf a, Vf b) { return a > b ? a : b; }
inline Vf min(Vf a, Vf b) { return a < b ? a : b; }
inline Vf round(Vf a) {
  return each([&](int i) { return std::nearbyintf(a[i]); });
}
inline Vf times_power_of_2(Vf a, Vf n) {
  // NaN stays NaN through a; its n is of no account but must convert.
  return each([&](int i) { return std::ldexp(a[i], n[i] == n[i] ? static_cast<int>(n[i]) : 0); });
}
inline Vf if_less(Vf a, Vf b, Vf then, Vf otherwise) { return a < b ? then : otherwise; }

inline Vf load(const float* p) {
  Vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <typename T>
inline Vf load(const T* p) {
  return each([&](int i) { return to_float(p[i]); });
}
inline void store(float* p, Vf v) { __builtin_memcpy(p, &v, sizeof v); }
// The first n lanes (n may exceed kLanes); the others are zero, and neither read nor written.
template <typename T>
inline Vf load_n(const T* p, std::int64_t n) {
  return each([&](int i) { return i < n ? to_float(p[i]) : 0.0F; });
}
template <typename T>
inline void store_n(T* p, Vf v, std::int64_t n) {
  for (int i = 0; i < kLanes && i < n; ++i) p[i] = from_float<T>(v[i]);
}

// The one tree: lane i + lane i+2, then i+1.
inline float reduce_add(Vf v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline float reduce_max(Vf v) {
  float m = v[0];
  for (int i = 1; i < kLanes; ++i) m = m > v[i] ? m : v[i];
  return m;
}
inline void reduce_rows(const Vf (&v)[kTileRows], float* out) {
  for (int r = 0; r < kTileRows; ++r) out[r] = reduce_add(v[r]);
}

inline Vf load_sums(const float* p) { return load(p); }
inline Vf load_scores(const float* p) { return load(p); }

template <typename T>
inline void load_step(const T* p, Vf (&w)[kVecs]) {
  for (int i = 0; i < kVecs; ++i) w[i] = load(p + i * kLanes);
}
// Without a branch: half of them would be mispredicted. The read past the last value falls into the padding.
template <typename T>
inline void expand_step(std::uint32_t mask, const T* values, Vf (&w)[kVecs]) {
  float columns[kStep];
  for (int c = 0; c < kStep; ++c) {
    const std::uint32_t bit = mask >> c & 1U;
    columns[c] = __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, to_float(*values)) & (0U - bit));
    values += bit;
  }
  load_step(columns, w);
}

inline void spread_nibbles(const std::uint8_t* values, std::int8_t* bytes) {
  for (int i = 0; i < kStep; ++i) bytes[i] = static_cast<std::int8_t>(nibble_at(values, i));
}
inline void load_nibbles(const std::uint8_t* p, Vf (&w)[kVecs]) {
  std::int8_t bytes[kStep];
  spread_nibbles(p, bytes);
  load_step(bytes, w);
}
inline void expand_nibbles(std::uint32_t mask, const std::uint8_t* values, Vf (&w)[kVecs]) {
  std::int8_t bytes[kStep + 1] = {};  // a read past the last value
  spread_nibbles(values, bytes);
  expand_step(mask, bytes, w);
}

template <typename T>
void expand_to_half(std::uint32_t mask, const T* values, T* out);  // kHalfPanels is false

inline void prefetch(const void* /*p*/) {}

}  // namespace
}  // namespace gossamer::cpu
