// How a group of weight rows becomes float vectors, step after step: dense, bitmap, or expanded to 16 bits before.
// Included after one of vec_*.h, by kernel files only.
#pragma once

namespace gossamer::cpu {
namespace {

constexpr std::int64_t kPrefetchBytes = 4096;  // ahead in the value stream

// A reader of one group: load_row(r) for every r in order, then advance() to the next step.
template <typename T>
struct DenseRows {
  using Value = T;
  const T* at;
  const T* ahead;  // kStepsAhead steps on, where the rows end in the next group
  std::int64_t stride;
  std::int64_t steps_to_wrap;

  static constexpr std::int64_t kStepsAhead = kPrefetchBytes / (kGroup * kStep * static_cast<std::int64_t>(sizeof(T)));

  DenseRows(const WeightView& w, std::int64_t group)
      : at(static_cast<const T*>(w.values) + group * kGroup * w.steps * kStep),
        ahead(at + kStepsAhead * kStep),
        stride(w.steps * kStep),
        steps_to_wrap(w.steps - kStepsAhead) {}
  [[gnu::always_inline]] void load_row(int r, Vf (&w)[kVecs]) {
    constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));
    for (std::int64_t line = 0; line < kStep; line += kLine) prefetch(ahead + r * stride + line);
    load_step(at + r * stride, w);
  }
  [[gnu::always_inline]] void expand_row(int r, T* out) {
    prefetch(ahead + r * stride);
    __builtin_memcpy(out, at + r * stride, kStep * sizeof(T));
  }
  void advance() {
    at += kStep;
    ahead += kStep;
    if (--steps_to_wrap == 0) ahead += (kGroup - 1) * stride;
  }
};

template <typename T>
struct BitmapRows {
  using Value = T;
  const std::uint32_t* masks;
  const T* values;

  BitmapRows(const WeightView& w, std::int64_t group)
      : masks(w.masks + group * w.steps * kGroup), values(static_cast<const T*>(w.values) + w.offsets[group]) {}
  [[gnu::always_inline]] void load_row(int r, Vf (&w)[kVecs]) {
    const std::uint32_t mask = masks[r];
    prefetch(reinterpret_cast<const char*>(values) + kPrefetchBytes);
    expand_step(mask, values, w);
    values += __builtin_popcount(mask);
  }
  [[gnu::always_inline]] void expand_row(int r, T* out) {
    const std::uint32_t mask = masks[r];
    prefetch(reinterpret_cast<const char*>(values) + kPrefetchBytes);
    expand_to_half(mask, values, out);
    values += __builtin_popcount(mask);
  }
  void advance() { masks += kGroup; }
};

// The scales of a group's rows, one set for some steps.
struct StepScales {
  const float* at;
  std::int64_t steps, left;

  StepScales(const WeightView& w, std::int64_t group)
      : at(w.step_scales + group * ((w.steps + w.scale_steps - 1) / w.scale_steps) * kGroup), steps(w.scale_steps), left(steps) {}
  [[gnu::always_inline]] void scale(int r, Vf (&w)[kVecs]) const {
    const Vf by = set1(at[r]);
    for (Vf& v : w) v = mul(v, by);
  }
  void advance() {
    if (--left > 0) return;
    at += kGroup;
    left = steps;
  }
};

constexpr std::int64_t kInt4StepBytes = kStep / 2;

template <>
struct DenseRows<Int4> {
  using Value = Int4;
  const std::uint8_t* at;
  std::int64_t stride;
  StepScales scales;

  DenseRows(const WeightView& w, std::int64_t group)
      : at(static_cast<const std::uint8_t*>(w.values) + group * kGroup * w.steps * kInt4StepBytes),
        stride(w.steps * kInt4StepBytes),
        scales(w, group) {}
  [[gnu::always_inline]] void load_row(int r, Vf (&w)[kVecs]) {
    prefetch(at + r * stride + kPrefetchBytes / kGroup);
    load_nibbles(at + r * stride, w);
    scales.scale(r, w);
  }
  void advance() {
    at += kInt4StepBytes;
    scales.advance();
  }
};

template <>
struct BitmapRows<Int4> {
  using Value = Int4;
  const std::uint32_t* masks;
  const std::uint8_t* values;
  StepScales scales;

  BitmapRows(const WeightView& w, std::int64_t group)
      : masks(w.masks + group * w.steps * kGroup),
        values(static_cast<const std::uint8_t*>(w.values) + w.offsets[group]),
        scales(w, group) {}
  [[gnu::always_inline]] void load_row(int r, Vf (&w)[kVecs]) {
    const std::uint32_t mask = masks[r];
    prefetch(values + kPrefetchBytes);
    expand_nibbles(mask, values, w);
    scales.scale(r, w);
    values += (__builtin_popcount(mask) + 1) / 2;
  }
  void advance() {
    masks += kGroup;
    scales.advance();
  }
};

// A group that was expanded to 16 bits.
template <typename T>
struct HalfPanelRows {
  const T* at;
  std::int64_t stride;
  [[gnu::always_inline]] void load_row(int r, Vf (&w)[kVecs]) { load_step(at + r * stride, w); }
  void advance() { at += kStep; }
};

}  // namespace
}  // namespace gossamer::cpu
