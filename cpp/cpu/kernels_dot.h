// The product of bf16 weights with bf16 activations by the native dot product. One law for every n, chunk and thread count: an output is
// 16 partial sums, lane l taking columns 2l and 2l + 1 of every step, in order; then the one tree of reduce_add.
// Included after vec_avx512.h and kernels_linear.h, by the kernel file of AVX-512 with BF16 only.
#pragma once

namespace gossamer::cpu {
namespace {

constexpr int kDotSums = 24;                  // in registers: rows x tokens
constexpr int kDotSplitTokens = 8;            // up to so many tokens take the weights from memory straight into registers
constexpr std::int64_t kDotSplitSteps = 16;   // steps of a block that a few rows at a time go over again: in the first-level cache
constexpr int kDotTokens = 3;                 // tokens in registers with a whole group of a panel
constexpr std::int64_t kDotSteps = 32;        // steps of a panel: kGroup rows are 16 KiB, a third of a first-level cache
constexpr std::int64_t kDotTokenBlock = 96;   // tokens whose sums wait in memory between panels: 48 KiB
constexpr std::int64_t kMaskPrefetch = 2048;  // bytes ahead in the mask stream
// Ahead in the value stream when a few rows at a time go over a block: past its end, so that every pass keeps the memory busy.
constexpr std::int64_t kSplitPrefetch = 10240;

// Readers of one group: load<first, rows>(use) calls use(r, values) for rows first + r of the step at hand; then advance().
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
  template <int kFirst, int kRows, typename Use>
  [[gnu::always_inline]] void load(const Use& use) const {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      prefetch(ahead + (kFirst + r) * stride);
      use(r, _mm512_loadu_si512(at + (kFirst + r) * stride));
    }
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
  // Values of the step before a row of even number. Every count starts from the step's own masks, so no row waits for another's.
  [[gnu::always_inline]] std::int64_t before(int row) const {
    std::int64_t count = 0;
#pragma GCC unroll 4
    for (int r = 0; r < row; r += 2) {
      std::uint64_t two;
      __builtin_memcpy(&two, masks + r, sizeof two);
      count += __builtin_popcountll(two);
    }
    return count;
  }
  template <int kFirst, int kRows, typename Use>
  [[gnu::always_inline]] void load(const Use& use) const {
    if constexpr (kFirst == 0) prefetch(reinterpret_cast<const char*>(masks) + kMaskPrefetch);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const int row = kFirst + r;
      const std::int64_t offset = before(row / 2 * 2) + (row % 2 == 1 ? __builtin_popcount(masks[row - 1]) : 0);
      if constexpr (kRows < kGroup) {
        prefetch(reinterpret_cast<const char*>(values + offset) + kSplitPrefetch);
      } else if (row % 2 == 0) {
        prefetch(reinterpret_cast<const char*>(values + offset) + kPrefetchBytes);
      }
      use(r, _mm512_mask_expand_epi16(fresh_zero(), masks[row], _mm512_loadu_si512(values + offset)));
    }
  }
  void advance() {
    values += before(kGroup);
    masks += kGroup;
  }
};

// acc[t][r] += rows [kFirst, kFirst + kRows) · tokens, over some steps. The fewer of rows and tokens stay in registers beside the sums.
template <int kTokens, int kFirst, int kRows, typename Rows>
[[gnu::always_inline]] inline void dot_steps(Rows& rows, const BFloat16* x, std::int64_t x_stride, std::int64_t steps,
                                             Vf (&acc)[kTokens][kRows]) {
  for (std::int64_t step = 0; step < steps; ++step) {
    if constexpr (kTokens < kRows) {
      __m512bh xs[kTokens];
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) xs[t] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(x + t * x_stride));
      rows.template load<kFirst, kRows>([&](int r, __m512i w) {
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) acc[t][r] = _mm512_dpbf16_ps(acc[t][r], reinterpret_cast<__m512bh>(w), xs[t]);
      });
    } else {
      __m512bh w[kRows];
      rows.template load<kFirst, kRows>([&](int r, __m512i row) { w[r] = reinterpret_cast<__m512bh>(row); });
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const auto xs = reinterpret_cast<__m512bh>(_mm512_loadu_si512(x + t * x_stride));
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) acc[t][r] = _mm512_dpbf16_ps(acc[t][r], w[r], xs);
      }
    }
    rows.advance();
    x += kStep;
  }
}

// So few tokens that the sums of a whole group fit the registers.
template <int kTokens, typename Rows>
inline void dot_direct(const LinearTask& task, std::int64_t group) {
  Rows rows(task.weight, group);
  Vf acc[kTokens][kGroup];
  for (auto& row : acc)
    for (Vf& sum : row) sum = zero();
  dot_steps<kTokens, 0, kGroup>(rows, static_cast<const BFloat16*>(task.x), task.x_stride, task.weight.steps, acc);
  float sums[kTokens][kGroup];
  for (int t = 0; t < kTokens; ++t) reduce_rows(acc[t], sums[t]);
  emit(task, group, 0, kTokens, sums);
}

// Rows [kFirst, kFirst + kRows) of one block of k, returning the reader after it. Their sums wait in `partial` between blocks.
template <int kTokens, int kFirst, int kRows, typename Rows>
inline Rows dot_some_rows(Rows rows, const BFloat16* x, std::int64_t x_stride, std::int64_t steps, Vf (*partial)[kGroup]) {
  Vf acc[kTokens][kRows];
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kRows; ++r) acc[t][r] = partial[t][kFirst + r];
  dot_steps<kTokens, kFirst, kRows>(rows, x, x_stride, steps, acc);
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kRows; ++r) partial[t][kFirst + r] = acc[t][r];
  return rows;
}

// A few tokens more: some rows at a time with all of them, so that each row is expanded once.
template <int kTokens, typename Rows>
inline void dot_split(const LinearTask& task, std::int64_t group) {
  constexpr int kRows = kDotSums / kTokens < 4 ? 3 : 4;
  Rows rows(task.weight, group);
  Vf partial[kTokens][kGroup];
  for (auto& row : partial)
    for (Vf& sum : row) sum = zero();
  for (std::int64_t step = 0; step < task.weight.steps; step += kDotSplitSteps) {
    const std::int64_t steps = smaller(kDotSplitSteps, task.weight.steps - step);
    const BFloat16* x = static_cast<const BFloat16*>(task.x) + step * kStep;
    const Rows next = dot_some_rows<kTokens, 0, kRows>(rows, x, task.x_stride, steps, partial);
    dot_some_rows<kTokens, kRows, kRows>(rows, x, task.x_stride, steps, partial);
    if constexpr (2 * kRows < kGroup) dot_some_rows<kTokens, 2 * kRows, kGroup - 2 * kRows>(rows, x, task.x_stride, steps, partial);
    rows = next;
  }
  float sums[kTokens][kGroup];
  for (int t = 0; t < kTokens; ++t) reduce_rows(partial[t], sums[t]);
  emit(task, group, 0, kTokens, sums);
}

// Expands groups one step at a time, one group after the other, into panels [steps][kGroup][kStep].
template <typename Rows>
struct DotExpander {
  const WeightView& weight;
  Rows rows;
  std::int64_t group, group_end;
  std::int64_t step = 0;
  BFloat16* to = nullptr;

  DotExpander(const WeightView& w, std::int64_t begin, std::int64_t end) : weight(w), rows(w, begin), group(begin), group_end(end) {}
  // Steps of the next panel; 0 after the last group.
  std::int64_t remaining() const { return group < group_end ? smaller(kDotSteps, weight.steps - step) : 0; }
  [[gnu::always_inline]] void expand_step() {
    rows.template load<0, kGroup>([this](int r, __m512i w) { _mm512_store_si512(to + r * kStep, w); });
    to += kGroup * kStep;
    rows.advance();
    if (++step == weight.steps) {
      step = 0;
      if (++group < group_end) rows = Rows(weight, group);
    }
  }
};

// One panel of a group, and how much of the next is to be expanded meanwhile: steps_due in every loops_due steps.
struct DotBlock {
  const BFloat16* panel;
  std::int64_t step, steps;  // of k
  bool first, last;
  std::int64_t steps_due, loops_due;
};

// A panel for kTokens tokens from `token` on. Their sums wait in `partial` between a group's panels; after the last they go out.
// Expansion of the next panel is spread among the dot products, which leave the units that it needs free.
template <int kTokens, typename Rows>
inline void dot_tokens(const LinearTask& task, const DotBlock& block, DotExpander<Rows>& next, std::int64_t& due, std::int64_t group,
                       std::int64_t token, float* partial) {
  Vf acc[kTokens][kGroup];
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kGroup; ++r) acc[t][r] = block.first ? zero() : load(partial + (t * kGroup + r) * kLanes);
  const BFloat16* x = static_cast<const BFloat16*>(task.x) + token * task.x_stride + block.step * kStep;
  const BFloat16* panel = block.panel;
  for (std::int64_t step = 0; step < block.steps; ++step) {
    __m512bh xs[kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) xs[t] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(x + t * task.x_stride));
#pragma GCC unroll 8
    for (int r = 0; r < kGroup; ++r) {
      const auto row = reinterpret_cast<__m512bh>(_mm512_load_si512(panel + r * kStep));
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) acc[t][r] = _mm512_dpbf16_ps(acc[t][r], row, xs[t]);
    }
    panel += kGroup * kStep;
    x += kStep;
    for (due += block.steps_due; due >= block.loops_due; due -= block.loops_due) next.expand_step();
  }
  if (!block.last) {
    for (int t = 0; t < kTokens; ++t)
      for (int r = 0; r < kGroup; ++r) store(partial + (t * kGroup + r) * kLanes, acc[t][r]);
    return;
  }
  float sums[kTokens][kGroup];
  for (int t = 0; t < kTokens; ++t) reduce_rows(acc[t], sums[t]);
  emit(task, group, token, kTokens, sums);
}

// Tokens [begin, end) with groups [group_begin, group_end), panel after panel.
template <typename Rows>
inline void dot_panels(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end, std::int64_t begin, std::int64_t end) {
  alignas(64) BFloat16 panels[2][kDotSteps * kGroup * kStep];
  alignas(64) float partial[kDotTokenBlock * kGroup * kLanes];
  const std::int64_t n = end - begin;
  const std::int64_t passes = (n + kDotTokens - 1) / kDotTokens;
  DotExpander<Rows> next(task.weight, group_begin, group_end);
  next.to = panels[0];
  for (std::int64_t i = next.remaining(); i > 0; --i) next.expand_step();
  int current = 0;
  for (std::int64_t group = group_begin; group < group_end; ++group) {
    for (std::int64_t step = 0; step < task.weight.steps; step += kDotSteps) {
      const std::int64_t steps = smaller(kDotSteps, task.weight.steps - step);
      const DotBlock block{panels[current], step, steps, step == 0, step + steps == task.weight.steps, next.remaining(), passes * steps};
      current ^= 1;
      next.to = panels[current];
      std::int64_t due = 0;
      std::int64_t token = 0;
      for (std::int64_t pass = 0; pass < passes; ++pass) {
        float* waiting = partial + token * kGroup * kLanes;
        const std::int64_t count = (n * (pass + 1)) / passes - token;  // even shares: never one token after threes
        if (count == 3) dot_tokens<3>(task, block, next, due, group, begin + token, waiting);
        if (count == 2) dot_tokens<2>(task, block, next, due, group, begin + token, waiting);
        if (count == 1) dot_tokens<1>(task, block, next, due, group, begin + token, waiting);
        token += count;
      }
    }
  }
}

template <typename Rows>
inline void dot_groups(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end) {
  if (task.n <= kDotSplitTokens) {
    for (std::int64_t group = group_begin; group < group_end; ++group) {
      switch (task.n) {
        case 1: dot_direct<1, Rows>(task, group); break;
        case 2: dot_direct<2, Rows>(task, group); break;
        case 3: dot_direct<3, Rows>(task, group); break;
        case 4: dot_split<4, Rows>(task, group); break;
        case 5: dot_split<5, Rows>(task, group); break;
        case 6: dot_split<6, Rows>(task, group); break;
        case 7: dot_split<7, Rows>(task, group); break;
        default: dot_split<8, Rows>(task, group);
      }
    }
    return;
  }
  const std::int64_t k = task.weight.steps * kStep;
  // Activations that should stay in the second-level cache while all groups go over them.
  const std::int64_t fitting = 2 * kTokenBlockBytes / (k * static_cast<std::int64_t>(sizeof(BFloat16))) / kDotTokens * kDotTokens;
  const std::int64_t tokens = fitting < 4 * kDotTokens ? 4 * kDotTokens : smaller(fitting, kDotTokenBlock);
  for (std::int64_t token = 0; token < task.n; token += tokens)
    dot_panels<Rows>(task, group_begin, group_end, token, smaller(token + tokens, task.n));
}

inline void dot(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end) {
  if (task.weight.sparse) {
    dot_groups<DotBitmap>(task, group_begin, group_end);
  } else {
    dot_groups<DotDense>(task, group_begin, group_end);
  }
}

}  // namespace
}  // namespace gossamer::cpu
