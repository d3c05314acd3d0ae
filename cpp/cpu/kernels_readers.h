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
    for (std::int64_t line = 0; line < kStep; line += 64 / static_cast<std::int64_t>(sizeof(T))) prefetch(ahead + r * stride + line);
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
