// The parts that model families are made of. Each takes its scratch memory from ctx.arena and gives it back; scratch_bytes says how much
// for n tokens. Sizes are this rank's.
#pragma once

#include <cstddef>
#include <optional>

#include "model/linear.h"
#include "model/model.h"

namespace gossamer {

// What Arena::take uses for a matrix.
std::size_t arena_bytes_of(DType dtype, std::int64_t rows, std::int64_t cols);

struct RmsNorm {
  OwnedTensor weight;  // [h]
  float eps = 0.0F;

  void apply(ExecContext& ctx, const Tensor& out, const Tensor& x) const { ctx.ops.rms_norm(out, x, weight.view, eps); }
};

struct LayerNorm {
  OwnedTensor weight;  // [h]
  OwnedTensor bias;    // [h]
  float eps = 0.0F;

  void apply(ExecContext& ctx, const Tensor& out, const Tensor& x) const { ctx.ops.layer_norm(out, x, weight.view, bias.view, eps); }
};

struct RopeTables {
  OwnedTensor cos;  // f32 [positions, head_dim / 2]
  OwnedTensor sin;
  RopeTable view;
};

// Token embedding and head, cut by vocabulary over the ranks.
struct Vocabulary {
  Linear head;
  OwnedTensor own_table;       // empty when the head shares its bytes
  Tensor table;                // [rows of this rank, width]
  std::int64_t row_begin = 0;  // first token id of this rank

  void embed(ExecContext& ctx, const Tensor& out, const Tensor& token_ids) const;
  // x [r, width] → f32 logits [r, vocab_size].
  void logits(ExecContext& ctx, const Tensor& out, const Tensor& x) const;
  std::size_t logits_scratch_bytes(std::int64_t rows, std::int64_t vocab_size) const;
};

struct Attention {
  Linear qkv;                             // [(num_heads + 2 num_kv_heads) · head_dim, h]
  Linear out;                             // [h, num_heads · head_dim]
  std::optional<RmsNorm> q_norm, k_norm;  // per head, before the rotation
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
  AttentionParams params;

  // hidden += out(attention(qkv(x))). rope: null for learned positions.
  void apply(ExecContext& ctx, const KvLayer& kv, const Batch& batch, const RopeTable* rope, const Tensor& x, const Tensor& hidden) const;
  std::size_t scratch_bytes(DType dtype, std::int64_t n) const;
};

// hidden += down(activation(gate(x)) * up(x)).
struct GatedMlp {
  Linear gate_up;  // [2i, h]
  Linear down;     // [h, i]
  std::int64_t intermediate_size = 0;
  Activation activation = Activation::silu;

  void apply(ExecContext& ctx, const Tensor& x, const Tensor& hidden) const;
  std::size_t scratch_bytes(DType dtype, std::int64_t n) const;
};

// hidden += down(activation(up(x))).
struct Mlp {
  Linear up;    // [i, h]
  Linear down;  // [h, i]
  std::int64_t intermediate_size = 0;
  Activation activation = Activation::relu;

  void apply(ExecContext& ctx, const Tensor& x, const Tensor& hidden) const;
  std::size_t scratch_bytes(DType dtype, std::int64_t n) const;
};

}  // namespace gossamer
