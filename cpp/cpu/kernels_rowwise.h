// Norms, gated activation, rotary embedding, conversions: one row at a time, sums by lanes and the one tree.
// Included after one of vec_*.h and vec_math.h, by kernel files only.
#pragma once

namespace gossamer::cpu {
namespace {

inline float reciprocal_root(float x) { return 1.0F / __builtin_sqrtf(x); }

inline void rms_norm(float* out, const float* x, const float* weight, std::int64_t size, float eps) {
  Vf squares = zero();
  for (std::int64_t c = 0; c < size; c += kLanes) {
    const Vf v = load_n(x + c, size - c);
    squares = fma(v, v, squares);
  }
  const Vf scale = set1(reciprocal_root(reduce_add(squares) / static_cast<float>(size) + eps));
  for (std::int64_t c = 0; c < size; c += kLanes) {
    store_n(out + c, mul(mul(load_n(x + c, size - c), scale), load_n(weight + c, size - c)), size - c);
  }
}

inline void layer_norm(float* out, const float* x, const float* weight, const float* bias, std::int64_t size, float eps) {
  Vf sum = zero();
  for (std::int64_t c = 0; c < size; c += kLanes) sum = add(sum, load_n(x + c, size - c));
  const Vf mean = set1(reduce_add(sum) / static_cast<float>(size));
  Vf squares = zero();
  std::int64_t c = 0;
  for (; c + kLanes <= size; c += kLanes) {
    const Vf v = sub(load(x + c), mean);
    squares = fma(v, v, squares);
  }
  if (c < size) {
    // Lanes past the end hold 0, not -mean.
    const Vf v = sub(load_n(x + c, size - c), mean);
    float lanes[kLanes];
    store(lanes, v);
    const Vf inside = load_n(lanes, size - c);
    squares = fma(inside, inside, squares);
  }
  const Vf scale = set1(reciprocal_root(reduce_add(squares) / static_cast<float>(size) + eps));
  for (c = 0; c < size; c += kLanes) {
    const Vf normed = mul(sub(load_n(x + c, size - c), mean), scale);
    store_n(out + c, fma(normed, load_n(weight + c, size - c), load_n(bias + c, size - c)), size - c);
  }
}

inline void gated(float* out, const float* gate, const float* up, std::int64_t size, Act activation) {
  for (std::int64_t c = 0; c < size; c += kLanes) {
    const Vf g = activate(load_n(gate + c, size - c), activation);
    store_n(out + c, mul(g, load_n(up + c, size - c)), size - c);
  }
}

// Pairs (i, i + half): a cos - b sin, b cos + a sin.
inline void rotate(float* x, const float* cos, const float* sin, std::int64_t half) {
  for (std::int64_t c = 0; c < half; c += kLanes) {
    const std::int64_t n = half - c;
    const Vf a = load_n(x + c, n);
    const Vf b = load_n(x + half + c, n);
    const Vf cosine = load_n(cos + c, n);
    const Vf sine = load_n(sin + c, n);
    store_n(x + c, fnma(b, sine, mul(a, cosine)), n);
    store_n(x + half + c, fma(a, sine, mul(b, cosine)), n);
  }
}

inline void add_row(float* x, const float* y, std::int64_t size) {
  for (std::int64_t c = 0; c < size; c += kLanes) store_n(x + c, add(load_n(x + c, size - c), load_n(y + c, size - c)), size - c);
}

template <typename T>
inline void widen_row(float* out, const void* in, std::int64_t size, bool accumulate) {
  const T* from = static_cast<const T*>(in);
  for (std::int64_t c = 0; c < size; c += kLanes) {
    const Vf v = load_n(from + c, size - c);
    store_n(out + c, accumulate ? add(load_n(out + c, size - c), v) : v, size - c);
  }
}

inline void widen(float* out, const void* in, DType dtype, std::int64_t size, bool accumulate) {
  if (dtype == DType::f32) widen_row<float>(out, in, size, accumulate);
  if (dtype == DType::f16) widen_row<Float16>(out, in, size, accumulate);
  if (dtype == DType::bf16) widen_row<BFloat16>(out, in, size, accumulate);
}

template <typename T>
inline void narrow_row(void* out, const float* in, std::int64_t size) {
  T* to = static_cast<T*>(out);
  for (std::int64_t c = 0; c < size; c += kLanes) store_n(to + c, load_n(in + c, size - c), size - c);
}

inline void narrow(void* out, DType dtype, const float* in, std::int64_t size) {
  if (dtype == DType::f32) narrow_row<float>(out, in, size);
  if (dtype == DType::f16) narrow_row<Float16>(out, in, size);
  if (dtype == DType::bf16) narrow_row<BFloat16>(out, in, size);
}

}  // namespace
}  // namespace gossamer::cpu
