// Ops: the contract between model and device. One device, one stream, one workspace. Public verbs check shapes, dtypes and devices
// (ops.cpp), then call the backend's do_*, which assumes them. Verbs enqueue; synchronize() waits. A verb modifies only `out`
// (or what its comment says). Sizes: n tokens, m output features, k input features; activations are [n, k] row-major. Unless a comment says
// otherwise activations, biases and norm weights are of activation_dtype(), rows may be strided, last axes are contiguous, n may be 0.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/memory.h"
#include "core/tensor.h"
#include "ops/random_weight.h"
#include "ops/sampling.h"
#include "sparse/sparse_weight.h"

namespace gossamer {

// A weight matrix [m, k] in a device's own layout; immutable. Made by Ops::pack.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  virtual std::int64_t rows() const = 0;    // m
  virtual std::int64_t cols() const = 0;    // k
  virtual std::int64_t nbytes() const = 0;  // resident bytes, all of them
  virtual DType dtype() const = 0;          // of the stored values
  virtual bool is_sparse() const = 0;
  virtual std::string format() const = 0;  // "dense", "bitmap rows", ...
  // The weight as a plain table [m, k] on the device (any row stride), where the layout keeps one; undefined otherwise. Lets a tied
  // embedding read the head's own bytes.
  virtual Tensor table() const { return {}; }
};

enum class Activation { none, relu, gelu, gelu_tanh, silu };

// out = activation(x · Wᵀ + bias) + residual. Undefined tensors are left out.
struct Epilogue {
  Tensor bias;  // [m]
  Activation activation = Activation::none;
  Tensor residual;  // [n, m] of out's dtype; may be `out` itself
};

// One step's work for a set of sequences: token-packed, no padding between sequences. Device memory.
struct Batch {
  std::int64_t num_tokens = 0;  // n
  std::int64_t num_seqs = 0;
  std::int64_t num_logits = 0;     // rows whose logits are wanted
  std::int64_t num_decodes = 0;    // sequences at the front that have one token each, as far as is known: a hint
  std::int64_t max_query_len = 0;  // upper bound; launch shapes may depend on it
  std::int64_t max_context_len = 0;
  Tensor token_ids;    // i32 [num_tokens]
  Tensor positions;    // i32 [num_tokens], from 0
  Tensor slots;        // i32 [num_tokens]; block * block_size + offset where the token's K and V go; -1 = nowhere (padding)
  Tensor query_start;  // i32 [num_seqs + 1]; sequence s owns tokens [query_start[s], query_start[s+1])
  Tensor context_len;  // i32 [num_seqs]; tokens in the KV cache after this step
  Tensor block_table;  // i32 [num_seqs, max_blocks]
  Tensor logit_rows;   // i32 [num_logits], indices of tokens
};

// One layer of the paged KV pool.
struct KvLayer {
  Tensor keys;    // [num_blocks, num_kv_heads, block_size, head_dim]
  Tensor values;  // same
};

// Half-rotation (GPT-NeoX) rotary embedding: pairs (i, i + rotary_dim/2). rotary_dim/2 = size(1) ≤ head_dim/2.
struct RopeTable {
  Tensor cos;  // f32 [max_positions, rotary_dim/2], any attention scaling folded in
  Tensor sin;
};

// Memory of a device that is not the host's: what it has, and what a KV cache may still take.
struct DeviceMemory {
  std::int64_t total_bytes = 0;
  std::int64_t free_bytes = 0;
};

struct AttentionParams {
  float scale = 1.0F;               // of q·k
  std::int64_t sliding_window = 0;  // a token sees itself and the window - 1 before it; 0 = all
};

class Ops {
 public:
  virtual ~Ops() = default;

  virtual Device device() const = 0;
  virtual DType activation_dtype() const = 0;
  virtual Allocator& allocator() = 0;
  virtual std::string description() const = 0;                                        // "cpu avx512-bf16, 2 threads"
  virtual std::optional<DeviceMemory> device_memory() const { return std::nullopt; }  // nullopt: the host's

  // Bytes per second at which the device's memory can be read and nothing else be done, the best of several passes: what a product of few
  // tokens is measured by. Here: the host's memory, one thread.
  virtual double measure_read_rate();

  // Weights are packed once, at load. Value dtypes are kept: f32, f16 or bf16, and the scaled ones (i8, e4m3, i4) that the device takes.
  std::unique_ptr<PackedWeight> pack(const Tensor& dense);         // host [m, k]
  std::unique_ptr<PackedWeight> pack(const SparseWeight& weight);  // host, validated
  std::unique_ptr<PackedWeight> pack(const ScaledMatrix& dense);   // host, validated
  virtual bool takes(DType values) const { return is_floating(values); }
  std::unique_ptr<PackedWeight> pack(const RandomWeight& weight);  // made where it is used

  // Host <-> device, contiguous, converting nothing. upload: the host's memory may change on return, and later verbs see what it held.
  // download: complete on return.
  void upload(const Tensor& device_out, const Tensor& host);
  void download(const Tensor& host_out, const Tensor& device);
  virtual void synchronize() = 0;

  // out[n, h] = table[ids] (+ out if accumulate). Ids outside [row_begin, row_begin + rows) give zeros (vocabulary-parallel).
  void embedding(const Tensor& out, const Tensor& table, const Tensor& ids, std::int64_t row_begin = 0, bool accumulate = false);
  // out = x / rms(x) * weight over the last axis; x, out: [.., h] of rank 2 or 3, any row strides. In place allowed.
  void rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, float eps);
  void layer_norm(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps);
  // out[n, m] = epilogue(x[n, k] · Wᵀ). out is activation dtype or f32.
  void linear(const Tensor& out, const Tensor& x, const PackedWeight& weight, const Epilogue& epilogue = {});
  // out[n, i] = activation(gate_up[n, :i]) * gate_up[n, i:].
  void gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation);
  // Rotates q and k in place (unless rope is null), then writes k and v to their slots. q: [n, num_heads, d], k, v: [n, num_kv_heads, d].
  void rope_and_write_kv(const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope, const KvLayer& kv, const Batch& batch);
  // Causal paged attention over the KV cache, which already holds this step's tokens. q, out: [n, num_heads, d].
  void attention(const Tensor& out, const Tensor& q, const KvLayer& kv, const Batch& batch, const AttentionParams& params);
  // Both: rope_and_write_kv, then attention of the rotated q. q and k may be left as they were.
  void attend(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope, const KvLayer& kv,
              const Batch& batch, const AttentionParams& params);
  // out[r] = x[rows[r]].
  void gather_rows(const Tensor& out, const Tensor& x, const Tensor& rows);
  // x[n, h] += y[n, h].
  void add(const Tensor& x, const Tensor& y);
  // Draws or scores one token per row of logits (f32 [rows, vocab], used as scratch). Complete on return.
  void sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result);

  // For steps that are begun before the host has seen the tokens of the one before. begin_sample is sample(), but `result` is complete only
  // after finish_sample(), which finishes the oldest that was begun; two may be open. The tokens go to `tokens`, too: i32 [rows].
  void begin_sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result, const Tensor& tokens);
  virtual void finish_sample() {}
  // ids[i] = tokens[rows[i]] wherever rows[i] >= 0; i32, ids and rows [n].
  void take_tokens(const Tensor& ids, const Tensor& rows, const Tensor& tokens);

  // Takes a code path that is not the default yet, from now on; for tests and measurements. InvalidArgument for a name that is not known.
  virtual void select_candidate(const std::string& name);

  // Whether run_recorded records; the caller then keeps a key's shapes and addresses the same.
  virtual bool records() const { return false; }
  // On a device with graphs early calls of a key record fn and later ones replay the recording; elsewhere it just calls fn.
  virtual void run_recorded(std::uint64_t key, const std::function<void()>& fn);
  // Drops what was recorded. A communicator whose collectives are in a recording must not be freed before it.
  virtual void forget_recordings() {}

 protected:
  virtual std::unique_ptr<PackedWeight> do_pack_dense(const Tensor& dense) = 0;
  virtual std::unique_ptr<PackedWeight> do_pack_sparse(const SparseWeight& weight) = 0;
  virtual std::unique_ptr<PackedWeight> do_pack_scaled(const ScaledMatrix& dense);   // of a dtype that takes() says
  virtual std::unique_ptr<PackedWeight> do_pack_random(const RandomWeight& weight);  // here: makes it on the host and packs that
  virtual void do_copy(const Tensor& out, const Tensor& in) = 0;                     // has read host memory on return
  virtual void do_embedding(const Tensor& out, const Tensor& table, const Tensor& ids, std::int64_t row_begin, bool accumulate) = 0;
  virtual void do_rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, float eps) = 0;
  virtual void do_layer_norm(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps) = 0;
  virtual void do_linear(const Tensor& out, const Tensor& x, const PackedWeight& weight, const Epilogue& epilogue) = 0;
  virtual void do_gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) = 0;
  virtual void do_rope_and_write_kv(const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope, const KvLayer& kv,
                                    const Batch& batch) = 0;
  virtual void do_attention(const Tensor& out, const Tensor& q, const KvLayer& kv, const Batch& batch, const AttentionParams& params) = 0;
  virtual void do_attend(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope, const KvLayer& kv,
                         const Batch& batch, const AttentionParams& params);  // here: the two verbs
  virtual void do_gather_rows(const Tensor& out, const Tensor& x, const Tensor& rows) = 0;
  virtual void do_add(const Tensor& x, const Tensor& y) = 0;
  virtual void do_sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result) = 0;
  // Here, for devices that compute in the host's memory: sample() at once, and a loop.
  virtual void do_begin_sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result, const Tensor& tokens);
  virtual void do_take_tokens(const Tensor& ids, const Tensor& rows, const Tensor& tokens);
};

}  // namespace gossamer
