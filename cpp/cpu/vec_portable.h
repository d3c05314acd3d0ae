// Four float lanes in plain C++, for any CPU. Included by the portable kernel file only.
#pragma once

#include <cmath>

#include "cpu/kernels.h"

namespace gossamer::cpu {
namespace {  // every kernel file has its own copy

constexpr int kLanes = 4;
constexpr int kTileRows = 4;  // outputs held in registers: kTileRows x kTileTokens
constexpr int kTileTokens = 2;
constexpr int kDirectTokens = 0;  // expanding is slow here: always into a panel
constexpr int kVecs = kStep / kLanes;

struct Vf {
  float lane[kLanes];
};

template <typename F>
inline Vf each(const F& f) {
  Vf r;
  for (int i = 0; i < kLanes; ++i) r.lane[i] = f(i);
  return r;
}

inline Vf set1(float x) {
  return each([&](int) { return x; });
}
inline Vf zero() { return set1(0.0F); }
inline Vf add(const Vf& a, const Vf& b) {
  return each([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Vf sub(const Vf& a, const Vf& b) {
  return each([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline Vf mul(const Vf& a, const Vf& b) {
  return each([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline Vf div(const Vf& a, const Vf& b) {
  return each([&](int i) { return a.lane[i] / b.lane[i]; });
}
// Not fused: two roundings, the same on every CPU.
inline Vf fma(const Vf& a, const Vf& b, const Vf& c) { return add(mul(a, b), c); }
inline Vf fnma(const Vf& a, const Vf& b, const Vf& c) { return sub(c, mul(a, b)); }
// If either is NaN the result is b.
inline Vf max(const Vf& a, const Vf& b) {
  return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Vf min(const Vf& a, const Vf& b) {
  return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Vf round(const Vf& a) {
  return each([&](int i) { return std::nearbyintf(a.lane[i]); });
}
inline Vf times_power_of_2(const Vf& a, const Vf& n) {
  // NaN stays NaN through a; its n is of no account but must convert.
  return each([&](int i) { return std::ldexp(a.lane[i], n.lane[i] == n.lane[i] ? static_cast<int>(n.lane[i]) : 0); });
}
inline Vf if_less(const Vf& a, const Vf& b, const Vf& then, const Vf& otherwise) {
  return each([&](int i) { return a.lane[i] < b.lane[i] ? then.lane[i] : otherwise.lane[i]; });
}

template <typename T>
inline Vf load(const T* p) {
  return each([&](int i) { return to_float(p[i]); });
}
inline void store(float* p, const Vf& v) {
  for (int i = 0; i < kLanes; ++i) p[i] = v.lane[i];
}
// The first n lanes (n may exceed kLanes); the others are zero, and neither read nor written.
template <typename T>
inline Vf load_n(const T* p, std::int64_t n) {
  return each([&](int i) { return i < n ? to_float(p[i]) : 0.0F; });
}
template <typename T>
inline void store_n(T* p, const Vf& v, std::int64_t n) {
  for (int i = 0; i < kLanes && i < n; ++i) p[i] = from_float<T>(v.lane[i]);
}

// The one tree: lane i + lane i+2, then i+1.
inline float reduce_add(const Vf& v) { return (v.lane[0] + v.lane[2]) + (v.lane[1] + v.lane[3]); }
inline float reduce_max(const Vf& v) {
  float m = v.lane[0];
  for (int i = 1; i < kLanes; ++i) m = m > v.lane[i] ? m : v.lane[i];
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
template <typename T>
inline void expand_step(std::uint32_t mask, const T* values, Vf (&w)[kVecs]) {
  for (int c = 0; c < kStep; ++c) w[c / kLanes].lane[c % kLanes] = (mask >> c & 1U) != 0 ? to_float(*values++) : 0.0F;
}

inline void prefetch(const void* /*p*/) {}

}  // namespace
}  // namespace gossamer::cpu
