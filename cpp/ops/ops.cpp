#include "ops/ops.h"

#include <algorithm>
#include <cmath>

#include "ops/door.h"
#include "ops/read_rate.h"

namespace gossamer {

using detail::Door;

namespace {

void check_scales(const Door& door, const Ops& ops, DType dtype, const Tensor& scales, std::int64_t group, std::int64_t rows,
                  std::int64_t cols) {
  door.expect(is_scaled(dtype), "the weight's values are ", dtype, "; with scales they must be i8, e4m3 or i4");
  door.expect(ops.takes(dtype), "the weight's values are ", dtype, ", which this device does not multiply (", ops.description(),
              "); convert the model without --values, or use another device");
  require_scale_group(group, cols, "pack");
  door.host_tensor("scales", scales, 2);
  door.of_dtype("scales", scales, DType::f32);
  door.expect(scales.size(0) == rows && scales.size(1) == num_scale_groups(cols, group), "scales is ", scales, " but the weight is [", rows,
              ", ", cols, "] and ", group, " columns share a scale");
}

}  // namespace

double Ops::measure_read_rate() {
  HostAllocator host;
  ThreadPool pool(1);
  return host_read_rate(host, pool);
}

std::unique_ptr<PackedWeight> Ops::pack(const Tensor& dense) {
  const Door door("pack", device());
  door.host_tensor("the weight", dense, 2);
  door.floating("the weight", dense);
  door.expect(dense.numel() > 0, "the weight is ", dense, "; both sizes must be positive");
  return do_pack_dense(dense);
}

std::unique_ptr<PackedWeight> Ops::pack(const SparseWeight& weight) {
  const Door door("pack", device());
  door.expect(weight.rows > 0 && weight.cols > 0, "the weight is [", weight.rows, ", ", weight.cols, "]; both sizes must be positive");
  door.host_tensor("mask", weight.mask, 2);
  door.of_dtype("mask", weight.mask, DType::u8);
  door.contiguous("mask", weight.mask);
  door.expect(weight.mask.size(0) == weight.rows && weight.mask.size(1) == weight.mask_stride(), "mask is ", weight.mask,
              " but the weight is [", weight.rows, ", ", weight.cols, "]");
  door.host_tensor("values", weight.values, 1);
  if (is_scaled(weight.dtype())) {
    check_scales(door, *this, weight.dtype(), weight.scales, weight.group, weight.rows, weight.cols);
  } else {
    door.floating("values", weight.values);
    door.expect(!weight.scales.defined(), "scales is ", weight.scales, " but values is ", weight.values);
  }
  door.host_tensor("row_offsets", weight.row_offsets, 1);
  door.of_dtype("row_offsets", weight.row_offsets, DType::i64);
  door.expect(weight.row_offsets.size(0) == weight.rows + 1, "row_offsets is ", weight.row_offsets,
              " but the weight has rows = ", weight.rows);
  const std::int64_t last_offset = weight.row_offsets.data<std::int64_t>()[weight.rows];
  door.expect(last_offset == weight.nnz(), "values is ", weight.values, " but row_offsets ends at ", last_offset);
  return do_pack_sparse(weight);
}

std::unique_ptr<PackedWeight> Ops::pack(const ScaledMatrix& dense) {
  const Door door("pack", device());
  door.host_tensor("the weight", dense.values, 2);
  door.expect(dense.values.numel() > 0, "the weight is ", dense.values, "; both sizes must be positive");
  check_scales(door, *this, dense.dtype(), dense.scales, dense.group, dense.rows(), dense.cols());
  return do_pack_scaled(dense);
}

std::unique_ptr<PackedWeight> Ops::do_pack_scaled(const ScaledMatrix& dense) {
  throw InternalError("a backend that takes " + std::string(name_of(dense.dtype())) + " does not pack it");
}

void Ops::upload(const Tensor& device_out, const Tensor& host) {
  const Door door("upload", device());
  door.tensor("device_out", device_out, device_out.rank());
  door.host_tensor("host", host, host.rank());
  door.same_shape("device_out", device_out, "host", host);
  door.of_dtype("host", host, device_out.dtype());
  door.contiguous("device_out", device_out);
  door.contiguous("host", host);
  if (host.numel() == 0) return;
  do_copy(device_out, host);
}

void Ops::download(const Tensor& host_out, const Tensor& device_in) {
  const Door door("download", device());
  door.host_tensor("host_out", host_out, host_out.rank());
  door.tensor("device", device_in, device_in.rank());
  door.same_shape("host_out", host_out, "device", device_in);
  door.of_dtype("host_out", host_out, device_in.dtype());
  door.contiguous("host_out", host_out);
  door.contiguous("device", device_in);
  if (host_out.numel() == 0) return;
  do_copy(host_out, device_in);
  synchronize();
}

void Ops::embedding(const Tensor& out, const Tensor& table, const Tensor& ids, std::int64_t row_begin, bool accumulate) {
  const Door door("embedding", device());
  door.tensor("out", out, 2, activation_dtype());
  door.tensor("table", table, 2);
  door.floating("table", table);
  door.expect(table.size(1) == out.size(1), "table is ", table, " but out has hidden size ", out.size(1));
  door.vector("ids", ids, DType::i32, out.size(0), "the rows of out");
  door.expect(row_begin >= 0, "row_begin = ", row_begin, "; it must not be negative");
  if (out.numel() == 0) return;
  do_embedding(out, table, ids, row_begin, accumulate);
}

void Ops::rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, float eps) {
  const Door door("rms_norm", device());
  door.expect(x.rank() == 2 || x.rank() == 3, "x is ", x, "; it must have rank 2 or 3");
  door.tensor("x", x, x.rank(), activation_dtype());
  door.tensor("out", out, x.rank(), activation_dtype());
  door.same_shape("out", out, "x", x);
  door.vector("weight", weight, activation_dtype(), x.size(x.rank() - 1), "the last axis of x");
  door.expect(eps >= 0.0F && std::isfinite(eps), "eps = ", double{eps}, "; it must be finite and not negative");
  if (x.numel() == 0) return;
  do_rms_norm(out, x, weight, eps);
}

void Ops::layer_norm(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps) {
  const Door door("layer_norm", device());
  door.expect(x.rank() == 2 || x.rank() == 3, "x is ", x, "; it must have rank 2 or 3");
  door.tensor("x", x, x.rank(), activation_dtype());
  door.tensor("out", out, x.rank(), activation_dtype());
  door.same_shape("out", out, "x", x);
  door.vector("weight", weight, activation_dtype(), x.size(x.rank() - 1), "the last axis of x");
  door.vector("bias", bias, activation_dtype(), x.size(x.rank() - 1), "the last axis of x");
  door.expect(eps >= 0.0F && std::isfinite(eps), "eps = ", double{eps}, "; it must be finite and not negative");
  if (x.numel() == 0) return;
  do_layer_norm(out, x, weight, bias, eps);
}

void Ops::linear(const Tensor& out, const Tensor& x, const PackedWeight& weight, const Epilogue& epilogue) {
  const Door door("linear", device());
  door.tensor("x", x, 2, activation_dtype());
  door.expect(x.size(1) == weight.cols(), "x is ", x, " but the weight has k = ", weight.cols());
  door.tensor("out", out, 2);
  door.expect(out.dtype() == activation_dtype() || out.dtype() == DType::f32, "out is ", out, "; it must be ", activation_dtype(),
              " or f32");
  door.expect(out.size(1) == weight.rows(), "out is ", out, " but the weight has m = ", weight.rows());
  door.expect(out.size(0) == x.size(0), "out is ", out, " but x is ", x, "; both must have n rows");
  door.apart("out", out, "x", x);
  if (epilogue.bias.defined()) door.vector("bias", epilogue.bias, activation_dtype(), weight.rows(), "the weight's m");
  if (epilogue.residual.defined()) {
    door.tensor("residual", epilogue.residual, 2, out.dtype());
    door.same_shape("residual", epilogue.residual, "out", out);
  }
  if (out.numel() == 0) return;
  do_linear(out, x, weight, epilogue);
}

void Ops::gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) {
  const Door door("gated_activation", device());
  door.tensor("out", out, 2, activation_dtype());
  door.tensor("gate_up", gate_up, 2, activation_dtype());
  door.expect(gate_up.size(0) == out.size(0), "gate_up is ", gate_up, " but out is ", out, "; both must have n rows");
  door.expect(gate_up.size(1) == 2 * out.size(1), "gate_up is ", gate_up, " but out is ", out, "; gate_up must have twice its columns");
  door.apart("out", out, "gate_up", gate_up);
  if (out.numel() == 0) return;
  do_gated_activation(out, gate_up, activation);
}

namespace {

// [num_blocks, num_kv_heads, block_size, head_dim], twice.
void check_kv(const Door& door, const KvLayer& kv, std::int64_t num_kv_heads, std::int64_t head_dim) {
  door.tensor("kv.keys", kv.keys, 4);
  door.floating("kv.keys", kv.keys);
  door.contiguous("kv.keys", kv.keys);
  door.tensor("kv.values", kv.values, 4, kv.keys.dtype());
  door.contiguous("kv.values", kv.values);
  door.same_shape("kv.values", kv.values, "kv.keys", kv.keys);
  door.expect(kv.keys.size(1) == num_kv_heads, "kv.keys is ", kv.keys, " but the model has num_kv_heads = ", num_kv_heads);
  door.expect(kv.keys.size(3) == head_dim, "kv.keys is ", kv.keys, " but head_dim = ", head_dim);
  door.expect(kv.keys.numel() > 0, "kv.keys is ", kv.keys, "; all sizes must be positive");
}

void check_rope(const Door& door, const RopeTable& rope, std::int64_t head_dim) {
  door.tensor("rope.cos", rope.cos, 2, DType::f32);
  door.tensor("rope.sin", rope.sin, 2, DType::f32);
  door.same_shape("rope.sin", rope.sin, "rope.cos", rope.cos);
  door.contiguous("rope.cos", rope.cos);
  door.contiguous("rope.sin", rope.sin);
  door.expect(2 * rope.cos.size(1) <= head_dim, "rope.cos is ", rope.cos, " but head_dim = ", head_dim,
              "; a table has at most head_dim / 2 columns");
}

void check_new_tokens(const Door& door, DType act, const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope,
                      const KvLayer& kv, const Batch& batch) {
  const std::int64_t n = batch.num_tokens;
  door.tensor("q", q, 3, act);
  door.tensor("k", k, 3, act);
  door.tensor("v", v, 3, act);
  door.same_shape("v", v, "k", k);
  door.expect(q.size(0) == n && k.size(0) == n, "q is ", q, " and k is ", k, " but the batch has num_tokens = ", n);
  door.expect(q.size(2) == k.size(2), "q is ", q, " but k is ", k, "; both must have the same head_dim");
  check_kv(door, kv, k.size(1), k.size(2));
  door.vector("batch.slots", batch.slots, DType::i32, n, "num_tokens");
  if (rope != nullptr) {
    check_rope(door, *rope, q.size(2));
    door.vector("batch.positions", batch.positions, DType::i32, n, "num_tokens");
  }
}

void check_attention(const Door& door, DType act, const Tensor& out, const Tensor& q, const KvLayer& kv, const Batch& batch,
                     const AttentionParams& params) {
  door.tensor("q", q, 3, act);
  door.tensor("out", out, 3, act);
  door.same_shape("out", out, "q", q);
  door.apart("out", out, "q", q);
  door.expect(q.size(0) == batch.num_tokens, "q is ", q, " but the batch has num_tokens = ", batch.num_tokens);
  check_kv(door, kv, kv.keys.rank() == 4 ? kv.keys.size(1) : 0, q.size(2));
  const std::int64_t num_kv_heads = kv.keys.size(1);
  door.expect(q.size(1) % num_kv_heads == 0, "q is ", q, " but num_kv_heads = ", num_kv_heads, "; it must divide num_heads");
  door.vector("batch.query_start", batch.query_start, DType::i32, batch.num_seqs + 1, "num_seqs + 1");
  door.vector("batch.context_len", batch.context_len, DType::i32, batch.num_seqs, "num_seqs");
  door.tensor("batch.block_table", batch.block_table, 2, DType::i32);
  door.expect(batch.block_table.size(0) == batch.num_seqs, "batch.block_table is ", batch.block_table, " but num_seqs = ", batch.num_seqs);
  door.expect(std::isfinite(params.scale), "scale = ", double{params.scale}, "; it must be finite");
  door.expect(params.sliding_window >= 0, "sliding_window = ", params.sliding_window, "; it must not be negative (0 = all)");
}

}  // namespace

void Ops::rope_and_write_kv(const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope, const KvLayer& kv,
                            const Batch& batch) {
  check_new_tokens(Door("rope_and_write_kv", device()), activation_dtype(), q, k, v, rope, kv, batch);
  if (batch.num_tokens == 0) return;
  do_rope_and_write_kv(q, k, v, rope, kv, batch);
}

void Ops::attention(const Tensor& out, const Tensor& q, const KvLayer& kv, const Batch& batch, const AttentionParams& params) {
  check_attention(Door("attention", device()), activation_dtype(), out, q, kv, batch, params);
  if (out.numel() == 0) return;
  do_attention(out, q, kv, batch, params);
}

void Ops::attend(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope, const KvLayer& kv,
                 const Batch& batch, const AttentionParams& params) {
  const Door door("attend", device());
  check_new_tokens(door, activation_dtype(), q, k, v, rope, kv, batch);
  check_attention(door, activation_dtype(), out, q, kv, batch, params);
  if (out.numel() == 0) return;
  do_attend(out, q, k, v, rope, kv, batch, params);
}

void Ops::do_attend(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope, const KvLayer& kv,
                    const Batch& batch, const AttentionParams& params) {
  do_rope_and_write_kv(q, k, v, rope, kv, batch);
  do_attention(out, q, kv, batch, params);
}

void Ops::gather_rows(const Tensor& out, const Tensor& x, const Tensor& rows) {
  const Door door("gather_rows", device());
  door.tensor("out", out, 2, activation_dtype());
  door.tensor("x", x, 2, activation_dtype());
  door.expect(out.size(1) == x.size(1), "out is ", out, " but x is ", x, "; both must have the same columns");
  door.vector("rows", rows, DType::i32, out.size(0), "the rows of out");
  door.apart("out", out, "x", x);
  if (out.numel() == 0) return;
  do_gather_rows(out, x, rows);
}

void Ops::add(const Tensor& x, const Tensor& y) {
  const Door door("add", device());
  door.tensor("x", x, 2, activation_dtype());
  door.tensor("y", y, 2, activation_dtype());
  door.same_shape("y", y, "x", x);
  if (x.numel() == 0) return;
  do_add(x, y);
}

void Ops::sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result) {
  detail::check_sample(device(), logits, batch, result);
  if (logits.size(0) == 0) return;
  do_sample(logits, batch, result);
}

void Ops::begin_sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result, const Tensor& tokens) {
  detail::check_sample(device(), logits, batch, result);
  Door("begin_sample", device()).vector("tokens", tokens, DType::i32, logits.size(0), "the rows of logits");
  do_begin_sample(logits, batch, result, tokens);
}

void Ops::do_begin_sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result, const Tensor& tokens) {
  if (logits.size(0) == 0) return;
  do_sample(logits, batch, result);
  std::copy(result.tokens.begin(), result.tokens.end(), tokens.data<std::int32_t>());
}

void Ops::take_tokens(const Tensor& ids, const Tensor& rows, const Tensor& tokens) {
  const Door door("take_tokens", device());
  door.tensor("ids", ids, 1, DType::i32);
  door.vector("rows", rows, DType::i32, ids.size(0), "the size of ids");
  door.tensor("tokens", tokens, 1, DType::i32);
  if (ids.numel() == 0) return;
  do_take_tokens(ids, rows, tokens);
}

void Ops::do_take_tokens(const Tensor& ids, const Tensor& rows, const Tensor& tokens) {
  for (std::int64_t i = 0; i < ids.size(0); ++i) {
    const std::int32_t row = rows.data<const std::int32_t>()[i];
    if (row >= 0) ids.data<std::int32_t>()[i] = tokens.data<const std::int32_t>()[row];
  }
}

void Ops::select_candidate(const std::string& name) {
  throw InvalidArgument("candidates: " + device().to_string() + " has none called '" + printable(name) + "'");
}

void Ops::run_recorded(std::uint64_t /*key*/, const std::function<void()>& fn) { fn(); }

}  // namespace gossamer
