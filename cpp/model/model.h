// Model: immutable weights and the forward pass, one short file per family in families/.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "kv/kv_cache.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "ops/ops.h"

namespace gossamer {

// Sees the input of every linear, before the product. One product may stand for several logical weights (q, k and v share an input).
class LinearObserver {
 public:
  virtual ~LinearObserver() = default;
  virtual void observe(std::span<const std::string> weight_names, Ops& ops, const Tensor& input) = 0;  // input [n, k]
};

// What a forward pass may use. The arena holds activations; each verb of Model gives back what it took.
struct ExecContext {
  Ops& ops;
  Communicator& comm;
  Arena& arena;
  LinearObserver* observer = nullptr;
};

struct WeightStats {
  std::int64_t weight_bytes = 0;     // resident packed bytes, embedding and head included, tied counted once
  std::int64_t table_bytes = 0;      // of them, those of tables that a step only picks rows from
  std::int64_t num_parameters = 0;   // logical, zeros included
  std::int64_t sparse_elements = 0;  // elements of the linears stored sparse
  std::int64_t sparse_zeros = 0;     // zeros among them
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelConfig& config() const = 0;
  virtual WeightStats stats() const = 0;
  // Bytes of arena that forward() needs for at most these sizes.
  virtual std::size_t arena_bytes(std::int64_t max_tokens, std::int64_t max_logits) const = 0;
  virtual KvCacheShape kv_shape() const = 0;  // num_layers, num_kv_heads of this rank, head_dim, dtype; the rest 0

  virtual void embed(ExecContext& ctx, const Batch& batch, const Tensor& hidden) const = 0;  // hidden [n, h] out
  // The two halves of layer i, in place: attention with what is added to the hidden states, and then the MLP.
  virtual void attention(ExecContext& ctx, std::int64_t i, const KvCache& kv, const Batch& batch, const Tensor& hidden) const = 0;
  virtual void mlp(ExecContext& ctx, std::int64_t i, const Tensor& hidden) const = 0;
  virtual void head(ExecContext& ctx, const Tensor& hidden, const Tensor& logits) const = 0;  // hidden [r, h] → f32 logits [r, vocab]

  void layer(ExecContext& ctx, std::int64_t i, const KvCache& kv, const Batch& batch, const Tensor& hidden) const {
    attention(ctx, i, kv, batch, hidden);
    mlp(ctx, i, hidden);
  }

  // embed → layers → rows of batch.logit_rows → head. logits f32 [num_logits, vocab]; nothing when num_logits is 0.
  void forward(ExecContext& ctx, const KvCache& kv, const Batch& batch, const Tensor& logits) const;
};

// A model without files: every weight random, norms 1, biases 0. Products in the layers are sparse if sparsity > 0, the embedding and the
// head always dense. values: of the products, those of a head that is not the embedding too; none = the activations' dtype.
struct RandomWeights {
  double sparsity = 0.0;
  std::optional<DType> values = {};
  std::uint64_t seed = 0;
};

struct LoadOptions {
  std::function<void(std::int64_t bytes_done, std::int64_t bytes_total)> progress = {};  // may throw to cancel
  std::int64_t max_positions = 0;  // rotary tables reach this far; 0 = as far as the model's configuration
  // For layer streaming. Parts whose first tensor is not selected stay empty and must not be used; null = load everything.
  std::function<bool(const std::string& name)> select = {};
  std::map<std::string, Tensor> replacements = {};  // host matrices, floating, of the stored shape, to use instead of the stored ones
  bool reads_ahead = true;  // as many threads as the pool has read the next tensors while one is packed; changes no result
};

// Checks config and tensor list first, then reads, slices for this rank and packs.
std::unique_ptr<Model> load_model(const Checkpoint& checkpoint, Ops& ops, Communicator& comm, ThreadPool& pool,
                                  const LoadOptions& options = {});
// From the text of a config.json alone.
std::unique_ptr<Model> make_random_model(const std::string& config_json, const RandomWeights& weights, Ops& ops, Communicator& comm,
                                         ThreadPool& pool, const LoadOptions& options = {});

}  // namespace gossamer
