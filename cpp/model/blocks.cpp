#include "model/blocks.h"

namespace gossamer {

std::size_t arena_bytes_of(DType dtype, std::int64_t rows, std::int64_t cols) {
  const std::size_t bytes = static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols) * size_of(dtype);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

void Vocabulary::embed(ExecContext& ctx, const Tensor& out, const Tensor& token_ids) const {
  ctx.ops.embedding(out, table, token_ids, row_begin);
  if (ctx.comm.size() > 1) ctx.comm.all_reduce_sum(ctx.ops, out);
}

void Vocabulary::logits(ExecContext& ctx, const Tensor& out, const Tensor& x) const {
  if (ctx.comm.size() == 1) {
    head.apply(ctx, out, x);
    return;
  }
  const Arena::Scope scope(ctx.arena);
  const Tensor part = ctx.arena.take(DType::f32, {x.size(0), head.weight().rows()});
  head.apply(ctx, part, x);
  ctx.comm.all_gather_last(ctx.ops, out, part);
}

std::size_t Vocabulary::logits_scratch_bytes(std::int64_t rows, std::int64_t vocab_size) const {
  if (!head.is_loaded()) return 0;
  const std::int64_t own = head.weight().rows();
  return own == vocab_size ? 0 : arena_bytes_of(DType::f32, rows, own);
}

void Attention::apply(ExecContext& ctx, const KvLayer& kv, const Batch& batch, const RopeTable* rope, const Tensor& x,
                      const Tensor& hidden) const {
  const Arena::Scope scope(ctx.arena);
  const std::int64_t n = x.size(0);
  const std::int64_t q_size = num_heads * head_dim;
  const std::int64_t kv_size = num_kv_heads * head_dim;
  const Tensor fused = ctx.arena.take(x.dtype(), {n, q_size + 2 * kv_size});
  qkv.apply(ctx, fused, x);
  const Tensor q = fused.slice(1, 0, q_size).split_last(num_heads, head_dim);
  const Tensor k = fused.slice(1, q_size, q_size + kv_size).split_last(num_kv_heads, head_dim);
  const Tensor v = fused.slice(1, q_size + kv_size, q_size + 2 * kv_size).split_last(num_kv_heads, head_dim);
  if (q_norm) q_norm->apply(ctx, q, q);
  if (k_norm) k_norm->apply(ctx, k, k);
  const Tensor mixed = ctx.arena.take(x.dtype(), {n, q_size});
  ctx.ops.attend(mixed.split_last(num_heads, head_dim), q, k, v, rope, kv, batch, params);
  out.apply(ctx, hidden, mixed, Activation::none, hidden);
}

std::size_t Attention::scratch_bytes(DType dtype, std::int64_t n) const {
  return arena_bytes_of(dtype, n, (num_heads + 2 * num_kv_heads) * head_dim) + arena_bytes_of(dtype, n, num_heads * head_dim);
}

void GatedMlp::apply(ExecContext& ctx, const Tensor& x, const Tensor& hidden) const {
  const Arena::Scope scope(ctx.arena);
  const std::int64_t n = x.size(0);
  const Tensor both = ctx.arena.take(x.dtype(), {n, 2 * intermediate_size});
  const Tensor inner = ctx.arena.take(x.dtype(), {n, intermediate_size});
  gate_up.apply(ctx, both, x);
  ctx.ops.gated_activation(inner, both, activation);
  down.apply(ctx, hidden, inner, Activation::none, hidden);
}

std::size_t GatedMlp::scratch_bytes(DType dtype, std::int64_t n) const {
  return arena_bytes_of(dtype, n, 2 * intermediate_size) + arena_bytes_of(dtype, n, intermediate_size);
}

void Mlp::apply(ExecContext& ctx, const Tensor& x, const Tensor& hidden) const {
  const Arena::Scope scope(ctx.arena);
  const Tensor inner = ctx.arena.take(x.dtype(), {x.size(0), intermediate_size});
  up.apply(ctx, inner, x, activation);
  down.apply(ctx, hidden, inner, Activation::none, hidden);
}

std::size_t Mlp::scratch_bytes(DType dtype, std::int64_t n) const { return arena_bytes_of(dtype, n, intermediate_size); }

}  // namespace gossamer
