// The weight product. One law for every n, chunk and thread count: an output is kLanes partial sums, lane l taking columns l,
// l + kLanes, ... in order, one fused multiply-add each, k padded with zeros to a whole step; then the one tree of reduce_add.
// Blocking is over rows and tokens only, so the bits of an output depend on k and the instruction set alone.
// Included after one of vec_*.h, vec_math.h and kernels_readers.h, by kernel files only.
#pragma once

namespace gossamer::cpu {
namespace {

constexpr std::int64_t kPanelColumns = 768;                // of an expanded group: 24 KiB of floats, half of a first-level cache
constexpr std::int64_t kPanelStride = kPanelColumns + 16;  // rows in different cache sets
constexpr std::int64_t kSpilledTokens = 96;                // token block when k exceeds a panel and partial sums are kept in memory
constexpr std::int64_t kTokenBlockBytes = 384 << 10;       // activations that should stay in the second-level cache
constexpr std::int64_t kHalfPanelColumns = 4096;           // of a group expanded to 16 bits: 64 KiB

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Writes the sums of some tokens with rows of one group: bias, activation, residual.
inline void emit(const LinearTask& task, std::int64_t group, std::int64_t token, int num_tokens, const float (*sums)[kGroup]) {
  const std::int64_t row = group * kGroup;
  const std::int64_t rows = smaller(kGroup, task.weight.rows - row);
  for (int t = 0; t < num_tokens; ++t) {
    float* out = task.out + (token + t) * task.out_stride + row;
    for (std::int64_t c = 0; c < rows; c += kLanes) {
      Vf v = load_sums(sums[t] + c);
      if (task.weight.row_scales != nullptr) v = mul(v, load_sums(task.weight.row_scales + row + c));
      if (task.bias != nullptr) v = add(v, load_n(task.bias + row + c, rows - c));
      if (task.activation != Act::none) v = activate(v, task.activation);
      if (task.residual != nullptr) v = add(v, load_n(task.residual + (token + t) * task.residual_stride + row + c, rows - c));
      store_n(out + c, v, rows - c);
    }
  }
}

// kTokens tokens: every row's weights go from memory straight into registers.
template <int kTokens, typename Rows>
inline void direct_group(const LinearTask& task, Rows rows, std::int64_t group, std::int64_t token) {
  const float* x = static_cast<const float*>(task.x) + token * task.x_stride;
  Vf acc[kTokens][kGroup];
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kGroup; ++r) acc[t][r] = zero();
  for (std::int64_t step = 0; step < task.weight.steps; ++step) {
#pragma GCC unroll 8
    for (int r = 0; r < kGroup; ++r) {
      Vf w[kVecs];
      rows.load_row(r, w);
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
#pragma GCC unroll 4
        for (int t = 0; t < kTokens; ++t) acc[t][r] = fma(w[v], load(x + t * task.x_stride + v * kLanes), acc[t][r]);
      }
    }
    rows.advance();
    x += kStep;
  }
  float sums[kTokens][kGroup];
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < kGroup; r += kTileRows) reduce_rows(*reinterpret_cast<const Vf(*)[kTileRows]>(&acc[t][r]), sums[t] + r);
  }
  emit(task, group, token, kTokens, sums);
}

// acc += the products of kTileRows rows of float weights with kTokens vectors over `columns` columns.
template <int kTokens>
[[gnu::always_inline]] inline void tile(const float* w, std::int64_t w_stride, const float* x, std::int64_t x_stride, std::int64_t columns,
                                        Vf (&acc)[kTokens][kTileRows]) {
  for (std::int64_t c = 0; c < columns; c += kLanes) {
    Vf xs[kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) xs[t] = load(x + t * x_stride + c);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      const Vf weight = load(w + r * w_stride + c);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) acc[t][r] = fma(weight, xs[t], acc[t][r]);
    }
  }
}

// A group's rows as floats, columns [0, columns) of a block of k.
struct Panel {
  const float* rows;
  std::int64_t stride;
  std::int64_t columns;
};

// One block of k for kTokens tokens. Partial sums wait in `partial` between blocks; after the last one they go out.
template <int kTokens>
inline void panel_tokens(const LinearTask& task, const Panel& panel, const float* x, std::int64_t group, std::int64_t token, float* partial,
                         bool first, bool last) {
  float sums[kTokens][kGroup];
#pragma GCC unroll 2
  for (int r0 = 0; r0 < kGroup; r0 += kTileRows) {
    Vf acc[kTokens][kTileRows];
    for (int t = 0; t < kTokens; ++t)
      for (int r = 0; r < kTileRows; ++r) acc[t][r] = first ? zero() : load(partial + (t * kGroup + r0 + r) * kLanes);
    tile<kTokens>(panel.rows + r0 * panel.stride, panel.stride, x, task.x_stride, panel.columns, acc);
    for (int t = 0; t < kTokens; ++t) {
      if (last) {
        reduce_rows(acc[t], sums[t] + r0);
      } else {
        for (int r = 0; r < kTileRows; ++r) store(partial + (t * kGroup + r0 + r) * kLanes, acc[t][r]);
      }
    }
  }
  if (last) emit(task, group, token, kTokens, sums);
}

template <typename Rows>
inline void expand_panel(Rows& rows, std::int64_t columns, float* panel) {
  for (std::int64_t c = 0; c < columns; c += kStep) {
#pragma GCC unroll 8
    for (int r = 0; r < kGroup; ++r) {
      Vf w[kVecs];
      rows.load_row(r, w);
      for (int v = 0; v < kVecs; ++v) store(panel + r * kPanelStride + c + v * kLanes, w[v]);
    }
    rows.advance();
  }
}

// Float weights are their own panel.
inline Panel next_panel(DenseRows<float>& rows, std::int64_t columns, float* /*scratch*/) {
  const Panel panel{rows.at, rows.stride, columns};
  rows.at += columns;  // and never load_row
  return panel;
}
template <typename Rows>
inline Panel next_panel(Rows& rows, std::int64_t columns, float* scratch) {
  expand_panel(rows, columns, scratch);
  return {scratch, kPanelStride, columns};
}

template <typename Rows>
inline void panel_group(const LinearTask& task, Rows rows, std::int64_t group, std::int64_t token_begin, std::int64_t token_end) {
  alignas(64) float scratch[kGroup * kPanelStride];
  alignas(64) float partial[kSpilledTokens * kGroup * kLanes];
  const std::int64_t k = task.weight.steps * kStep;
  for (std::int64_t begin = 0; begin < k; begin += kPanelColumns) {
    const std::int64_t columns = smaller(kPanelColumns, k - begin);
    const Panel panel = next_panel(rows, columns, scratch);
    const bool first = begin == 0;
    const bool last = begin + columns == k;
    std::int64_t token = token_begin;
    for (; token < token_end;) {
      const float* x = static_cast<const float*>(task.x) + token * task.x_stride + begin;
      float* waiting = k > kPanelColumns ? partial + (token - token_begin) * kGroup * kLanes : partial;
      const std::int64_t left = token_end - token;
      if (left >= kTileTokens) {
        panel_tokens<kTileTokens>(task, panel, x, group, token, waiting, first, last);
        token += kTileTokens;
      } else if (left == 2) {
        panel_tokens<2>(task, panel, x, group, token, waiting, first, last);
        token += 2;
      } else {
        panel_tokens<1>(task, panel, x, group, token, waiting, first, last);
        token += 1;
      }
    }
  }
}

// Up to which n a group goes straight from memory into registers.
template <typename T>
constexpr std::int64_t direct_limit(const DenseRows<T>* /*kind*/) {
  return sizeof(T) == 2 ? kDirectLimitHalf : kDirectTokens;
}
template <typename T>
constexpr std::int64_t direct_limit(const BitmapRows<T>* /*kind*/) {
  return kDirectLimitSparse;
}
// Widening a small value again costs more than a float of a panel.
template <>
constexpr std::int64_t direct_limit(const DenseRows<std::int8_t>* /*kind*/) {
  return kDirectLimitSparse;
}
template <>
constexpr std::int64_t direct_limit(const DenseRows<Int4>* /*kind*/) {
  return kDirectLimitSparse;
}

template <typename Rows>
inline void direct_tokens(const LinearTask& task, const Rows& rows, std::int64_t group, std::int64_t token, std::int64_t token_end) {
  for (; token + kDirectTokens <= token_end; token += kDirectTokens) direct_group<kDirectTokens>(task, rows, group, token);
  if constexpr (kDirectTokens == 3) {
    if (token + 2 == token_end) direct_group<2>(task, rows, group, token);
    if (token + 1 == token_end) direct_group<1>(task, rows, group, token);
  }
}

// Where products of 16-bit weights go straight into registers, a group that serves many tokens is first brought into a panel: sparse
// ones expanded, dense ones copied, since a panel stays in the first-level cache from group to group.
template <typename Rows>
constexpr bool uses_half_panel(const Rows* /*kind*/) {
  using Value = typename Rows::Value;
  return (std::is_same_v<Value, Float16> || std::is_same_v<Value, BFloat16>) && kHalfPanels;
}

template <typename Rows>
inline void half_panel_group(const LinearTask& task, Rows rows, std::int64_t group, std::int64_t token, std::int64_t token_end) {
  using T = typename Rows::Value;
  alignas(64) T panel[kGroup * (kHalfPanelColumns + kStep)];
  const std::int64_t k = task.weight.steps * kStep;
  const std::int64_t stride = k + kStep;  // rows in different cache sets
  for (std::int64_t c = 0; c < k; c += kStep) {
#pragma GCC unroll 8
    for (int r = 0; r < kGroup; ++r) rows.expand_row(r, panel + r * stride + c);
    rows.advance();
  }
  direct_tokens(task, HalfPanelRows<T>{panel, stride}, group, token, token_end);
}

// Tokens whose activations stay in the second-level cache while all groups go over them.
inline std::int64_t token_block(const LinearTask& task, bool direct) {
  const std::int64_t k = task.weight.steps * kStep;
  if (!direct && k > kPanelColumns) return kSpilledTokens;
  constexpr std::int64_t kTokens = kTileTokens * kDirectTokens;
  return (kTokenBlockBytes / (k * static_cast<std::int64_t>(sizeof(float))) / kTokens + 1) * kTokens;
}

template <typename Rows>
inline void linear_groups(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end) {
  constexpr const Rows* kKind = nullptr;
  const bool direct = task.n <= direct_limit(kKind);
  const bool half = uses_half_panel(kKind) && task.weight.steps * kStep <= kHalfPanelColumns;
  const std::int64_t block = token_block(task, direct || half);
  for (std::int64_t token = 0; token < task.n; token += block) {
    const std::int64_t token_end = smaller(token + block, task.n);
    for (std::int64_t group = group_begin; group < group_end; ++group) {
      const Rows rows(task.weight, group);
      if (direct) {
        direct_tokens(task, rows, group, token, token_end);
        continue;
      }
      if constexpr (uses_half_panel(kKind)) {
        if (half) {
          half_panel_group(task, rows, group, token, token_end);
          continue;
        }
      }
      panel_group(task, rows, group, token, token_end);
    }
  }
}

template <typename T>
inline void linear_of(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end) {
  if (task.weight.sparse) {
    linear_groups<BitmapRows<T>>(task, group_begin, group_end);
  } else {
    linear_groups<DenseRows<T>>(task, group_begin, group_end);
  }
}

inline void linear(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end) {
  switch (task.weight.dtype) {
    case DType::f32: return linear_of<float>(task, group_begin, group_end);
    case DType::f16: return linear_of<Float16>(task, group_begin, group_end);
    case DType::bf16: return linear_of<BFloat16>(task, group_begin, group_end);
    case DType::i8: return linear_of<std::int8_t>(task, group_begin, group_end);
    case DType::i4: return linear_of<Int4>(task, group_begin, group_end);
    default: return;  // nothing else is packed
  }
}

}  // namespace
}  // namespace gossamer::cpu
