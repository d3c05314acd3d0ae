// The product of bf16 weights with bf16 activations by the native dot product. One law for every n, chunk and thread count: an output is
// 16 partial sums, lane l taking columns 2l and 2l + 1 of every step, in order; then the one tree of reduce_add.
// Included after vec_avx512.h and kernels_linear.h, by the kernel file of AVX-512 with BF16 only.
#pragma once

namespace gossamer::cpu {
namespace {

constexpr int kDotTokens = 3;                 // tokens in registers: 3 x kGroup sums
constexpr std::int64_t kDotSteps = 32;        // steps of a panel: kGroup rows are 16 KiB, a third of a first-level cache
constexpr std::int64_t kDotTokenBlock = 96;   // tokens whose sums wait in memory between panels: 48 KiB
constexpr std::int64_t kMaskPrefetch = 2048;  // bytes ahead in the mask stream

// Readers of one group: pair(r) gives rows r and r + 1 of the step at hand, 32 values each; then advance().
struct DotDense {
  const BFloat16* at;
  const BFloat16* ahead;  // where the rows end, in the next group
  std::int64_t stride;
  std::int64_t steps_to_wrap;
  static constexpr std::int64_t kStepsAhead = 8;

  DotDense(const WeightView& w, std::int64_t group)
      : at(static_cast<const BFloat16*>(w.values) + group * kGroup * w.steps * kStep),
        ahead(at + kStepsAhead * kStep),
        stride(w.steps * kStep),
        steps_to_wrap(w.steps - kStepsAhead) {}
  [[gnu::always_inline]] void pair(int r, __m512i& a, __m512i& b) const {
    prefetch(ahead + r * stride);
    prefetch(ahead + (r + 1) * stride);
    a = _mm512_loadu_si512(at + r * stride);
    b = _mm512_loadu_si512(at + (r + 1) * stride);
  }
  void advance() {
    at += kStep;
    ahead += kStep;
    if (--steps_to_wrap == 0) ahead += (kGroup - 1) * stride;
  }
};

struct DotBitmap {
  const std::uint32_t* masks;
  const BFloat16* values;

  DotBitmap(const WeightView& w, std::int64_t group)
      : masks(w.masks + group * w.steps * kGroup), values(static_cast<const BFloat16*>(w.values) + w.offsets[group]) {}
  // Two rows at a time: the second's address does not wait for the first's, and the next pair's only for one count.
  [[gnu::always_inline]] void pair(int r, __m512i& a, __m512i& b) {
    const std::uint32_t first = masks[r];
    const std::uint32_t second = masks[r + 1];
    const std::uint64_t both = std::uint64_t{second} << 32 | first;
    prefetch(reinterpret_cast<const char*>(values) + kPrefetchBytes);
    if (r == 0) prefetch(reinterpret_cast<const char*>(masks) + kMaskPrefetch);
    a = _mm512_mask_expand_epi16(fresh_zero(), first, _mm512_loadu_si512(values));
    b = _mm512_mask_expand_epi16(fresh_zero(), second, _mm512_loadu_si512(values + __builtin_popcount(first)));
    values += __builtin_popcountll(both);
  }
  void advance() { masks += kGroup; }
};

// A group that was expanded before: [steps][kGroup][kStep].
struct DotPanel {
  const BFloat16* at;
  [[gnu::always_inline]] void pair(int r, __m512i& a, __m512i& b) const {
    a = _mm512_loadu_si512(at + r * kStep);
    b = _mm512_loadu_si512(at + (r + 1) * kStep);
  }
  void advance() { at += kGroup * kStep; }
};

// One block of k of a group: the rows that begin it, and where they are kept for further tokens (null: nowhere).
struct DotBlock {
  const BFloat16* x;
  std::int64_t steps;
  bool first, last;
};

// acc[t][r] += rows · tokens over a block; what was read goes to `panel` when kKeep.
template <int kTokens, bool kKeep, typename Rows>
[[gnu::always_inline]] inline void dot_steps(Rows& rows, const BFloat16* x, std::int64_t x_stride, std::int64_t steps, BFloat16* panel,
                                             Vf (&acc)[kTokens][kGroup]) {
  for (std::int64_t step = 0; step < steps; ++step) {
    __m512bh xs[kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) xs[t] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(x + t * x_stride));
#pragma GCC unroll 4
    for (int r = 0; r < kGroup; r += 2) {
      __m512i a, b;
      rows.pair(r, a, b);
      if constexpr (kKeep) {
        _mm512_storeu_si512(panel + r * kStep, a);
        _mm512_storeu_si512(panel + (r + 1) * kStep, b);
      }
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        acc[t][r] = _mm512_dpbf16_ps(acc[t][r], reinterpret_cast<__m512bh>(a), xs[t]);
        acc[t][r + 1] = _mm512_dpbf16_ps(acc[t][r + 1], reinterpret_cast<__m512bh>(b), xs[t]);
      }
    }
    rows.advance();
    x += kStep;
    if constexpr (kKeep) panel += kGroup * kStep;
  }
}

// A block for kTokens tokens from `token` on. Sums wait in `partial` between blocks; after the last they go out.
template <int kTokens, bool kKeep, typename Rows>
inline void dot_tokens(const LinearTask& task, Rows& rows, const DotBlock& block, std::int64_t group, std::int64_t token, float* partial,
                       BFloat16* panel) {
  Vf acc[kTokens][kGroup];
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kGroup; ++r) acc[t][r] = block.first ? zero() : load(partial + (t * kGroup + r) * kLanes);
  dot_steps<kTokens, kKeep>(rows, block.x, task.x_stride, block.steps, panel, acc);
  if (!block.last) {
    for (int t = 0; t < kTokens; ++t)
      for (int r = 0; r < kGroup; ++r) store(partial + (t * kGroup + r) * kLanes, acc[t][r]);
    return;
  }
  float sums[kTokens][kGroup];
  for (int t = 0; t < kTokens; ++t) reduce_rows(acc[t], sums[t]);
  emit(task, group, token, kTokens, sums);
}

template <bool kKeep, typename Rows>
inline void dot_some_tokens(const LinearTask& task, Rows& rows, const DotBlock& block, std::int64_t group, std::int64_t token,
                            std::int64_t count, float* partial, BFloat16* panel) {
  if (count >= kDotTokens) return dot_tokens<kDotTokens, kKeep>(task, rows, block, group, token, partial, panel);
  if (count == 2) return dot_tokens<2, kKeep>(task, rows, block, group, token, partial, panel);
  dot_tokens<1, kKeep>(task, rows, block, group, token, partial, panel);
}

// Tokens [begin, end) with one group. The first few tokens take the weights from memory, and the same pass leaves them, expanded, in a
// panel for the others: expansion and dot products overlap.
template <typename Rows>
inline void dot_group(const LinearTask& task, std::int64_t group, std::int64_t begin, std::int64_t end) {
  alignas(64) BFloat16 panel[kDotSteps * kGroup * kStep];
  alignas(64) float partial[kDotTokenBlock * kGroup * kLanes];
  Rows rows(task.weight, group);
  const auto* x = static_cast<const BFloat16*>(task.x);
  if (end - begin <= kDotTokens) {
    const DotBlock whole{x + begin * task.x_stride, task.weight.steps, true, true};
    return dot_some_tokens<false>(task, rows, whole, group, begin, end - begin, partial, panel);
  }
  for (std::int64_t step = 0; step < task.weight.steps; step += kDotSteps) {
    DotBlock block{x + begin * task.x_stride + step * kStep, smaller(kDotSteps, task.weight.steps - step), step == 0,
                   step + kDotSteps >= task.weight.steps};
    dot_tokens<kDotTokens, true>(task, rows, block, group, begin, partial, panel);
    for (std::int64_t token = begin + kDotTokens; token < end; token += kDotTokens) {
      block.x = x + token * task.x_stride + step * kStep;
      DotPanel kept{panel};
      dot_some_tokens<false>(task, kept, block, group, token, end - token, partial + (token - begin) * kGroup * kLanes, nullptr);
    }
  }
}

inline void dot(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end) {
  const std::int64_t k = task.weight.steps * kStep;
  // Activations that should stay in the second-level cache while all groups go over them.
  const std::int64_t fitting = 2 * kTokenBlockBytes / (k * static_cast<std::int64_t>(sizeof(BFloat16))) / kDotTokens * kDotTokens;
  const std::int64_t tokens = fitting < 4 * kDotTokens ? 4 * kDotTokens : smaller(fitting, kDotTokenBlock);
  for (std::int64_t token = 0; token < task.n; token += tokens) {
    const std::int64_t end = smaller(token + tokens, task.n);
    for (std::int64_t group = group_begin; group < group_end; ++group) {
      if (task.weight.sparse) {
        dot_group<DotBitmap>(task, group, token, end);
      } else {
        dot_group<DotDense>(task, group, token, end);
      }
    }
  }
}

}  // namespace
}  // namespace gossamer::cpu
