#include "model/model.h"

#include <string>

#include "model/families/family.h"
#include "model/weight_loader.h"

namespace gossamer {
namespace {

// Tensor parallelism gives every rank the same number of heads, intermediate features and vocabulary rows. Key and value heads may be
// fewer than the ranks; then each is held by as many ranks as share its query heads.
void require_divisible(const ModelConfig& config, std::int64_t ranks) {
  const auto divides = [ranks](std::int64_t value, const char* name) {
    require(value % ranks == 0, "tensor_parallel_size must divide the model's " + std::string(name) + " = " + std::to_string(value) +
                                    "; it is " + std::to_string(ranks) + ": start another number of ranks");
  };
  divides(config.num_heads, "num_attention_heads");
  if (ranks <= config.num_kv_heads || ranks % config.num_kv_heads != 0) divides(config.num_kv_heads, "num_key_value_heads");
  divides(config.intermediate_size, "intermediate_size");
  divides(config.vocab_size, "vocab_size");
}

}  // namespace

void Model::forward(ExecContext& ctx, const KvCache& kv, const Batch& batch, const Tensor& logits) const {
  const Arena::Scope scope(ctx.arena);
  const std::int64_t h = config().hidden_size;
  const DType dtype = ctx.ops.activation_dtype();
  const Tensor hidden = ctx.arena.take(dtype, {batch.num_tokens, h});
  embed(ctx, batch, hidden);
  for (std::int64_t i = 0; i < config().num_layers; ++i) layer(ctx, i, kv, batch, hidden);
  if (batch.num_logits == 0) return;
  const Tensor last = ctx.arena.take(dtype, {batch.num_logits, h});
  ctx.ops.gather_rows(last, hidden, batch.logit_rows);
  head(ctx, last, logits);
}

std::unique_ptr<Model> load_model(const Checkpoint& checkpoint, Ops& ops, Communicator& comm, ThreadPool& pool,
                                  const LoadOptions& options) {
  const ModelConfig config = parse_model_config(checkpoint.side_file("config.json"), checkpoint.side_file("generation_config.json"));
  const Family& family = *find_family(config.architecture);
  require_divisible(config, comm.size());
  WeightLoader plan(WeightLoader::Mode::plan, checkpoint, ops, comm, pool, options);
  family.build(config, plan);
  checkpoint.require_tensors(plan.expected());
  const std::shared_ptr<ReadAhead> ahead = options.reads_ahead ? checkpoint.read_ahead(plan.reads(), pool.size()) : nullptr;
  WeightLoader loader(WeightLoader::Mode::load, checkpoint, ops, comm, pool, options);
  std::unique_ptr<Model> model = family.build(config, loader);
  ops.synchronize();
  return model;
}

std::unique_ptr<Model> make_random_model(const std::string& config_json, const RandomWeights& weights, Ops& ops, Communicator& comm,
                                         ThreadPool& pool, const LoadOptions& options) {
  const ModelConfig config = parse_model_config(config_json, "");
  require_divisible(config, comm.size());
  WeightLoader loader(weights, ops, comm, pool, options);
  std::unique_ptr<Model> model = find_family(config.architecture)->build(config, loader);
  ops.synchronize();
  return model;
}

}  // namespace gossamer
