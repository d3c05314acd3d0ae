// Paged causal attention. One law: a (token, head) pair goes through its sequence in blocks of kKvBlock positions from position 0, or
// from the block where its window begins; a block's scores are dot products by the linear layer's law, its softmax is online, its
// values are added in order of position. So chunking, batch, threads and the pool's block_size do not change a bit.
// Included after kernels_linear.h, by kernel files only.
#pragma once

namespace gossamer::cpu {
namespace {

// What a (token, head) pair carries from block to block.
struct RowState {
  float largest;   // score so far
  float total;     // sum of exp(score - largest)
  float rescale;   // exp(old largest - new largest), of this block
  int begin, end;  // positions of this block that it sees
};

// A block's keys and values as floats, one row per position, columns padded with zeros.
struct KvPanel {
  const float* keys;
  const float* values;
  std::int64_t stride;
};

// Where keys and values of some positions of one block lie.
template <typename T>
inline std::int64_t element_of(const AttentionTask& task, const AttentionUnit& unit, std::int64_t position) {
  const std::int64_t block = unit.blocks[position / task.block_size];
  return ((block * task.num_kv_heads + unit.kv_head) * task.block_size + position % task.block_size) * task.head_dim;
}

template <typename T>
inline void copy_row(float* out, const T* in, std::int64_t size, std::int64_t padded) {
  for (std::int64_t c = 0; c < padded; c += kLanes) store(out + c, load_n(in + c, size - c < 0 ? 0 : size - c));
}

// Reads in place what is laid out right, else copies positions [first, first + count) to scratch [2, kKvBlock, padded].
template <typename T>
inline KvPanel kv_panel(const AttentionTask& task, const AttentionUnit& unit, std::int64_t first, std::int64_t count, std::int64_t padded,
                        float* scratch) {
  const T* keys = static_cast<const T*>(task.keys);
  const T* values = static_cast<const T*>(task.values);
  if constexpr (sizeof(T) == sizeof(float)) {
    if (task.block_size % kKvBlock == 0 && task.head_dim == padded) {
      const std::int64_t at = element_of<T>(task, unit, first);
      return {keys + at, values + at, task.head_dim};
    }
  }
  float* value_rows = scratch + kKvBlock * padded;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t at = element_of<T>(task, unit, first + i);
    copy_row(scratch + i * padded, keys + at, task.head_dim, padded);
    copy_row(value_rows + i * padded, values + at, task.head_dim, padded);
  }
  for (std::int64_t i = count * padded; i < kKvBlock * padded; i += kLanes) store(scratch + i, zero());
  return {scratch, value_rows, padded};
}

template <int kRows>
inline void score_rows(const float* queries, const KvPanel& panel, std::int64_t padded, float (*scores)[kKvBlock]) {
#pragma GCC unroll 4
  for (int j = 0; j < kKvBlock; j += kTileRows) {
    Vf acc[kRows][kTileRows];
    for (int t = 0; t < kRows; ++t)
      for (int r = 0; r < kTileRows; ++r) acc[t][r] = zero();
    tile<kRows>(panel.keys + j * panel.stride, panel.stride, queries, padded, padded, acc);
    for (int t = 0; t < kRows; ++t) reduce_rows(acc[t], scores[t] + j);
  }
}

// Scores to weights, in place; updates the row's running maximum and total.
inline void soften(RowState& row, float (&scores)[kKvBlock], float scale) {
  constexpr int kParts = kKvBlock / kLanes;
  const float lowest = -__builtin_inff();
  if (row.begin > 0 || row.end < kKvBlock) {
    for (int j = 0; j < kKvBlock; ++j) scores[j] = j >= row.begin && j < row.end ? scores[j] * scale : lowest;
    scale = 1.0F;
  }
  Vf parts[kParts];
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) parts[i] = mul(load_scores(scores + i * kLanes), set1(scale));
  Vf top = parts[0];
#pragma GCC unroll 4
  for (int i = 1; i < kParts; ++i) top = max(parts[i], top);
  const float block_top = reduce_max(top);
  if (row.largest >= block_top) {
    row.rescale = 1.0F;  // what exp(0) is
  } else {
    float lanes[kLanes];
    store(lanes, exp(set1(row.largest - block_top)));
    row.rescale = lanes[0];
    row.largest = block_top;
  }
  Vf sum = zero();
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    const Vf weights = exp(sub(parts[i], set1(row.largest)));
    store(scores + i * kLanes, weights);
    sum = add(sum, weights);
  }
  row.total = row.total * row.rescale + reduce_add(sum);
}

// out[t] = out[t] * rescale + sum of weights[t][j] * values[j] over positions [begin, end), for kRows rows that share them.
template <int kRows, int kWidth>
inline void add_values_columns(float* out, std::int64_t padded, const RowState* rows, const float (*weights)[kKvBlock],
                               const KvPanel& panel, std::int64_t column) {
  Vf acc[kRows][kWidth];
#pragma GCC unroll 4
  for (int t = 0; t < kRows; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) acc[t][v] = mul(load(out + t * padded + column + v * kLanes), set1(rows[t].rescale));
  }
  for (int j = rows[0].begin; j < rows[0].end; ++j) {
    const float* value = panel.values + j * panel.stride + column;
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) {
      const Vf x = load(value + v * kLanes);
#pragma GCC unroll 4
      for (int t = 0; t < kRows; ++t) acc[t][v] = fma(set1(weights[t][j]), x, acc[t][v]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < kRows; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) store(out + t * padded + column + v * kLanes, acc[t][v]);
  }
}

template <int kRows>
inline void add_values(float* out, std::int64_t padded, const RowState* rows, const float (*weights)[kKvBlock], const KvPanel& panel) {
  std::int64_t column = 0;
  for (; column + 4 * kLanes <= padded; column += 4 * kLanes) add_values_columns<kRows, 4>(out, padded, rows, weights, panel, column);
  for (; column < padded; column += kLanes) add_values_columns<kRows, 1>(out, padded, rows, weights, panel, column);
}

inline bool same_range(const RowState* rows, int count) {
  for (int t = 1; t < count; ++t) {
    if (rows[t].begin != rows[0].begin || rows[t].end != rows[0].end) return false;
  }
  return true;
}

// One KV block for up to kTileTokens rows.
inline void attend_rows(const float* queries, float* out, std::int64_t padded, RowState* rows, int count, const KvPanel& panel,
                        float scale) {
  float scores[kTileTokens][kKvBlock];
  if (count == kTileTokens) {
    score_rows<kTileTokens>(queries, panel, padded, scores);
  } else {
    for (int t = 0; t < count; ++t) score_rows<1>(queries + t * padded, panel, padded, scores + t);
  }
  for (int t = 0; t < count; ++t) soften(rows[t], scores[t], scale);
  if (count == kTileTokens && same_range(rows, count)) {
    add_values<kTileTokens>(out, padded, rows, scores, panel);
  } else {
    for (int t = 0; t < count; ++t) add_values<1>(out + t * padded, padded, rows + t, scores + t, panel);
  }
}

template <typename T>
inline void attention_of(const AttentionTask& task, const AttentionUnit& unit) {
  alignas(64) float state[kMaxUnitState];
  alignas(64) float queries[kMaxUnitState];
  alignas(64) float scratch[2 * kKvBlock * kMaxHeadDim];
  RowState rows[kMaxUnitRows];
  const std::int64_t padded = (task.head_dim + kLanes - 1) / kLanes * kLanes;
  const int num_rows = unit.num_tokens * unit.num_heads;
  for (int i = 0; i < num_rows; ++i) {
    const std::int64_t token = unit.first_token + i / unit.num_heads;
    const std::int64_t head = unit.first_head + i % unit.num_heads;
    copy_row(queries + i * padded, task.q + token * task.q_token_stride + head * task.q_head_stride, task.head_dim, padded);
    for (std::int64_t c = 0; c < padded; c += kLanes) store(state + i * padded + c, zero());
    rows[i] = {-__builtin_inff(), 0.0F, 0.0F, 0, 0};
  }
  const auto window_begin = [&](std::int64_t position) {
    return task.window == 0 || position < task.window ? 0 : position - task.window + 1;
  };
  const std::int64_t last_position = unit.first_position + unit.num_tokens - 1;
  for (std::int64_t first = window_begin(unit.first_position) / kKvBlock * kKvBlock; first <= last_position; first += kKvBlock) {
    const std::int64_t count = smaller(kKvBlock, last_position + 1 - first);
    const KvPanel panel = kv_panel<T>(task, unit, first, count, padded, scratch);
    // The rows that see this block are consecutive: later tokens' windows and earlier tokens' futures leave it out.
    int row_begin = num_rows;
    int row_end = 0;
    for (int i = 0; i < num_rows; ++i) {
      const std::int64_t position = unit.first_position + i / unit.num_heads;
      const std::int64_t begin = window_begin(position) - first;
      rows[i].begin = begin > 0 ? static_cast<int>(smaller(begin, kKvBlock)) : 0;
      rows[i].end = static_cast<int>(smaller(kKvBlock, position + 1 - first));
      if (rows[i].begin >= rows[i].end) continue;
      row_begin = row_begin < i ? row_begin : i;
      row_end = i + 1;
    }
    for (int i = row_begin; i < row_end; i += kTileTokens) {
      const int here = row_end - i < kTileTokens ? row_end - i : kTileTokens;
      attend_rows(queries + i * padded, state + i * padded, padded, rows + i, here, panel, task.scale);
    }
  }
  for (int i = 0; i < num_rows; ++i) {
    float* out = task.out + (unit.first_token + i / unit.num_heads) * task.out_token_stride +
                 (unit.first_head + i % unit.num_heads) * task.out_head_stride;
    const Vf total = set1(rows[i].total);
    for (std::int64_t c = 0; c < task.head_dim; c += kLanes) store_n(out + c, div(load(state + i * padded + c), total), task.head_dim - c);
  }
}

inline void attention(const AttentionTask& task, const AttentionUnit& unit) {
  switch (task.kv_dtype) {
    case DType::f32: return attention_of<float>(task, unit);
    case DType::f16: return attention_of<Float16>(task, unit);
    case DType::bf16: return attention_of<BFloat16>(task, unit);
    default: return;  // Ops::attention lets no other dtype in
  }
}

}  // namespace
}  // namespace gossamer::cpu
