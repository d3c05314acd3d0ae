#include "cpu/cpu_attention.h"

#include <algorithm>

namespace gossamer::cpu {

namespace {

constexpr std::int64_t kUnitsPerThread = 4;  // fewer, and heads of a group get units of their own

float* head_of(const Tensor& x, std::int64_t token, std::int64_t head) {
  return x.data<float>() + token * x.stride(0) + head * x.stride(1);
}

void write_head(const Kernels& kernels, const Tensor& pool, std::int64_t slot, std::int64_t head, const float* from) {
  const std::int64_t block_size = pool.size(2);
  const std::int64_t row = (slot / block_size * pool.size(1) + head) * block_size + slot % block_size;
  auto* to = static_cast<std::byte*>(pool.raw()) + row * pool.size(3) * static_cast<std::int64_t>(size_of(pool.dtype()));
  kernels.narrow(to, pool.dtype(), from, pool.size(3));
}

void check_sequence(const Batch& batch, const KvLayer& kv, std::int64_t window, std::int64_t num_tokens, std::int64_t seq) {
  const std::int32_t* query_start = batch.query_start.data<const std::int32_t>();
  const std::int64_t queries = query_start[seq + 1] - query_start[seq];
  const std::int64_t context = batch.context_len.data<const std::int32_t>()[seq];
  const std::int64_t block_size = kv.keys.size(2);
  check(query_start[seq] >= 0 && queries >= 0 && query_start[seq + 1] <= num_tokens, "attention: query_start does not fit the tokens");
  check(context >= queries && context <= batch.block_table.size(1) * block_size, "attention: context_len does not fit the block table");
  const std::int32_t* blocks = batch.block_table.row<const std::int32_t>(seq);
  // Before the first query's window nothing is read.
  const std::int64_t first = window == 0 ? 0 : std::max<std::int64_t>(0, context - queries + 1 - window);
  for (std::int64_t i = first / block_size; i * block_size < context && queries > 0; ++i) {
    check(blocks[i] >= 0 && blocks[i] < kv.keys.size(0), "attention: a KV block lies outside the pool");
  }
}

}  // namespace

void check_rope_batch(const RopeTable* rope, const KvLayer& kv, const Batch& batch) {
  const std::int64_t num_slots = kv.keys.size(0) * kv.keys.size(2);
  const std::int32_t* slots = batch.slots.data<const std::int32_t>();
  for (std::int64_t i = 0; i < batch.num_tokens; ++i) check(slots[i] < num_slots, "rope_and_write_kv: a slot lies outside the pool");
  if (rope == nullptr) return;
  const std::int32_t* positions = batch.positions.data<const std::int32_t>();
  for (std::int64_t i = 0; i < batch.num_tokens; ++i) {
    check(positions[i] >= 0 && positions[i] < rope->cos.size(0), "rope_and_write_kv: a position lies outside the table");
  }
}

void rope_and_write_token(const Kernels& kernels, const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope,
                          const KvLayer& kv, const Batch& batch, std::int64_t token) {
  if (rope != nullptr) {
    const std::int64_t position = batch.positions.data<const std::int32_t>()[token];
    const float* cos = rope->cos.row<const float>(position);
    const float* sin = rope->sin.row<const float>(position);
    for (std::int64_t head = 0; head < q.size(1); ++head) kernels.rotate(head_of(q, token, head), cos, sin, rope->cos.size(1));
    for (std::int64_t head = 0; head < k.size(1); ++head) kernels.rotate(head_of(k, token, head), cos, sin, rope->cos.size(1));
  }
  const std::int64_t slot = batch.slots.data<const std::int32_t>()[token];
  if (slot < 0) return;
  for (std::int64_t head = 0; head < k.size(1); ++head) {
    write_head(kernels, kv.keys, slot, head, head_of(k, token, head));
    write_head(kernels, kv.values, slot, head, head_of(v, token, head));
  }
}

void plan_attention(std::vector<AttentionUnit>& units, const Tensor& q, const KvLayer& kv, const Batch& batch, std::int64_t window,
                    int num_threads) {
  const std::int64_t num_kv_heads = kv.keys.size(1);
  const std::int64_t head_dim = kv.keys.size(3);
  const std::int64_t heads_per_kv_head = q.size(1) / num_kv_heads;
  if (head_dim > kMaxHeadDim) [[unlikely]] {
    throw InvalidArgument("attention: head_dim = " + std::to_string(head_dim) + "; this backend has at most " +
                          std::to_string(kMaxHeadDim));
  }
  const std::int64_t max_rows = std::min<std::int64_t>(kMaxUnitRows, kMaxUnitState / ((head_dim + 15) / 16 * 16));
  const bool few = num_threads > 1 && batch.num_tokens * num_kv_heads < kUnitsPerThread * num_threads;
  const std::int64_t heads = few ? 1 : std::min(heads_per_kv_head, max_rows);
  const std::int64_t tokens = std::max<std::int64_t>(1, max_rows / heads);
  units.clear();
  for (std::int64_t seq = 0; seq < batch.num_seqs; ++seq) {
    check_sequence(batch, kv, window, q.size(0), seq);
    const std::int64_t begin = batch.query_start.data<const std::int32_t>()[seq];
    const std::int64_t end = batch.query_start.data<const std::int32_t>()[seq + 1];
    const std::int64_t first_position = batch.context_len.data<const std::int32_t>()[seq] - (end - begin);
    for (std::int64_t token = begin; token < end; token += tokens) {
      for (std::int64_t head = 0; head < q.size(1);) {
        const std::int64_t kv_head = head / heads_per_kv_head;
        const std::int64_t here = std::min(heads, (kv_head + 1) * heads_per_kv_head - head);
        units.push_back({.blocks = batch.block_table.row<const std::int32_t>(seq),
                         .first_token = token,
                         .first_position = first_position + token - begin,
                         .num_tokens = static_cast<std::int32_t>(std::min(tokens, end - token)),
                         .first_head = static_cast<std::int32_t>(head),
                         .num_heads = static_cast<std::int32_t>(here),
                         .kv_head = static_cast<std::int32_t>(kv_head)});
        head += here;
      }
    }
  }
  // Work grows with the last position; stable order does not matter, the bits of a unit are its own.
  const auto work = [](const AttentionUnit& unit) { return (unit.first_position + unit.num_tokens) * unit.num_tokens; };
  std::sort(units.begin(), units.end(), [&](const AttentionUnit& a, const AttentionUnit& b) { return work(a) > work(b); });
}

AttentionTask attention_task(const Tensor& out, const Tensor& q, const KvLayer& kv, const AttentionParams& params) {
  return {.keys = kv.keys.raw(),
          .values = kv.values.raw(),
          .kv_dtype = kv.keys.dtype(),
          .num_kv_heads = kv.keys.size(1),
          .block_size = kv.keys.size(2),
          .head_dim = kv.keys.size(3),
          .q = q.data<const float>(),
          .q_token_stride = q.stride(0),
          .q_head_stride = q.stride(1),
          .out = out.data<float>(),
          .out_token_stride = out.stride(0),
          .out_head_stride = out.stride(1),
          .scale = params.scale,
          .window = params.sliding_window};
}

}  // namespace gossamer::cpu
