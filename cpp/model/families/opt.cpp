// OPT: learned positions, layer norms with bias, ReLU MLP, tied head. OPT-350m embeds in a narrower space and normalises after each block.
#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/blocks.h"
#include "model/families/family.h"
#include "model/weight_loader.h"

namespace gossamer {
namespace {

constexpr std::int64_t kMaxWidth = std::int64_t{1} << 22;
constexpr std::int64_t kPositionOffset = 2;  // the table's first rows belong to padding
constexpr float kNormEps = 1e-5F;

void read_config(ConfigReader& reader, ModelConfig& config) {
  config.intermediate_size = reader.integer("ffn_dim", 1, kMaxWidth);
  config.num_kv_heads = config.num_heads;
  config.head_dim = config.hidden_size / config.num_heads;
  if (config.hidden_size % config.num_heads != 0) {
    reader.problem("hidden_size", "a multiple of num_attention_heads = " + std::to_string(config.num_heads),
                   std::to_string(config.hidden_size));
  }
  config.norm_eps = kNormEps;
  config.activation = read_activation(reader, "activation_function", "relu");
  config.tie_word_embeddings = reader.flag("tie_word_embeddings", true);
  config.attention_bias = config.mlp_bias = reader.flag("enable_bias", true);
  config.word_embed_proj_dim = reader.integer("word_embed_proj_dim", 1, kMaxWidth, config.hidden_size);
  config.norm_before = reader.flag("do_layer_norm_before", true);
  config.final_norm = config.norm_before && !reader.flag("_remove_final_layer_norm", false);
  config.norm_affine = reader.flag("layer_norm_elementwise_affine", true);
}

struct OptLayer {
  LayerNorm attention_norm;
  Attention attention;
  LayerNorm mlp_norm;
  Mlp mlp;
};

class OptModel final : public Model {
 public:
  OptModel(const ModelConfig& config, WeightLoader& loader);

  const ModelConfig& config() const override { return config_; }
  WeightStats stats() const override { return stats_; }

  std::size_t arena_bytes(std::int64_t max_tokens, std::int64_t max_logits) const override {
    const OptLayer& any = layers_.front();
    const auto bytes = [this](std::int64_t rows, std::int64_t cols) { return arena_bytes_of(dtype_, rows, cols); };
    const std::size_t embed = project_in_ ? bytes(max_tokens, config_.word_embed_proj_dim) : 0;
    const std::size_t layer = (config_.norm_before ? bytes(max_tokens, config_.hidden_size) : 0) +
                              std::max(any.attention.scratch_bytes(dtype_, max_tokens), any.mlp.scratch_bytes(dtype_, max_tokens));
    const std::size_t head = bytes(max_logits, config_.hidden_size) * (final_norm_ ? 2 : 1) +
                             (project_out_ ? bytes(max_logits, config_.word_embed_proj_dim) : 0) +
                             vocabulary_.logits_scratch_bytes(max_logits, config_.vocab_size);
    return bytes(max_tokens, config_.hidden_size) + std::max({embed, layer, head});
  }

  KvCacheShape kv_shape() const override {
    return {.num_layers = config_.num_layers,
            .num_kv_heads = layers_.front().attention.num_kv_heads,
            .head_dim = config_.head_dim,
            .dtype = dtype_};
  }

  void embed(ExecContext& ctx, const Batch& batch, const Tensor& hidden) const override {
    const Arena::Scope scope(ctx.arena);
    const Tensor narrow = project_in_ ? ctx.arena.take(dtype_, {hidden.size(0), config_.word_embed_proj_dim}) : hidden;
    vocabulary_.embed(ctx, narrow, batch.token_ids);
    if (project_in_) project_in_->apply(ctx, hidden, narrow);
    const Tensor positions = positions_.view.rows(kPositionOffset, kPositionOffset + config_.max_positions);
    ctx.ops.embedding(hidden, positions, batch.positions, 0, /*accumulate=*/true);
  }

  void attention(ExecContext& ctx, std::int64_t i, const KvCache& kv, const Batch& batch, const Tensor& hidden) const override {
    const Arena::Scope scope(ctx.arena);
    const OptLayer& layer = layers_[static_cast<std::size_t>(i)];
    if (config_.norm_before) {
      const Tensor normed = ctx.arena.take(dtype_, {hidden.size(0), config_.hidden_size});
      layer.attention_norm.apply(ctx, normed, hidden);
      layer.attention.apply(ctx, kv.layer(i), batch, nullptr, normed, hidden);
    } else {
      layer.attention.apply(ctx, kv.layer(i), batch, nullptr, hidden, hidden);
      layer.attention_norm.apply(ctx, hidden, hidden);
    }
  }

  void mlp(ExecContext& ctx, std::int64_t i, const Tensor& hidden) const override {
    const Arena::Scope scope(ctx.arena);
    const OptLayer& layer = layers_[static_cast<std::size_t>(i)];
    if (config_.norm_before) {
      const Tensor normed = ctx.arena.take(dtype_, {hidden.size(0), config_.hidden_size});
      layer.mlp_norm.apply(ctx, normed, hidden);
      layer.mlp.apply(ctx, normed, hidden);
    } else {
      layer.mlp.apply(ctx, hidden, hidden);
      layer.mlp_norm.apply(ctx, hidden, hidden);
    }
  }

  void head(ExecContext& ctx, const Tensor& hidden, const Tensor& logits) const override {
    const Arena::Scope scope(ctx.arena);
    Tensor x = hidden;
    if (final_norm_) {
      x = ctx.arena.take(dtype_, {hidden.size(0), config_.hidden_size});
      final_norm_->apply(ctx, x, hidden);
    }
    if (project_out_) {
      const Tensor narrow = ctx.arena.take(dtype_, {hidden.size(0), config_.word_embed_proj_dim});
      project_out_->apply(ctx, narrow, x);
      x = narrow;
    }
    vocabulary_.logits(ctx, logits, x);
  }

 private:
  ModelConfig config_;
  DType dtype_;  // of activations
  Vocabulary vocabulary_;
  OwnedTensor positions_;  // [max_positions + 2, h]
  std::optional<Linear> project_in_, project_out_;
  std::vector<OptLayer> layers_;
  std::optional<LayerNorm> final_norm_;
  WeightStats stats_;
};

LayerNorm build_norm(WeightLoader& loader, const ModelConfig& config, const std::string& module) {
  const std::int64_t size = config.hidden_size;
  if (!config.norm_affine) return {.weight = loader.constant(size, 1.0F), .bias = loader.constant(size, 0.0F), .eps = kNormEps};
  return {.weight = loader.vector(module + ".weight", size), .bias = loader.vector(module + ".bias", size), .eps = kNormEps};
}

OptLayer build_layer(WeightLoader& loader, const ModelConfig& config, const std::string& prefix) {
  const std::int64_t h = config.hidden_size;
  const auto linear = [&](std::vector<std::string> modules, std::vector<std::int64_t> rows, std::int64_t cols, Shard shard) {
    for (std::string& module : modules) module.insert(0, prefix + ".");
    return loader.linear(
        {.modules = std::move(modules), .rows = std::move(rows), .cols = cols, .bias = config.attention_bias, .shard = shard});
  };
  OptLayer layer;
  layer.attention_norm = build_norm(loader, config, prefix + ".self_attn_layer_norm");
  layer.attention.qkv = linear({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, {h, h, h}, h, Shard::rows);
  layer.attention.out = linear({"self_attn.out_proj"}, {h}, h, Shard::cols);
  layer.attention.num_heads = layer.attention.num_kv_heads = loader.share(config.num_heads);
  layer.attention.head_dim = config.head_dim;
  layer.attention.params.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)));
  layer.mlp_norm = build_norm(loader, config, prefix + ".final_layer_norm");
  layer.mlp.up = linear({"fc1"}, {config.intermediate_size}, h, Shard::rows);
  layer.mlp.down = linear({"fc2"}, {h}, config.intermediate_size, Shard::cols);
  layer.mlp.intermediate_size = loader.share(config.intermediate_size);
  layer.mlp.activation = config.activation;
  return layer;
}

OptModel::OptModel(const ModelConfig& config, WeightLoader& loader) : config_(config), dtype_(loader.ops().activation_dtype()) {
  const std::string decoder = "model.decoder.";
  const std::int64_t h = config.hidden_size;
  const std::int64_t narrow = config.word_embed_proj_dim;
  vocabulary_ = loader.vocabulary(decoder + "embed_tokens", "lm_head", config);
  positions_ = loader.table(decoder + "embed_positions.weight", config.max_positions + kPositionOffset, h);
  if (narrow != h) {
    project_in_ = loader.linear({.modules = {decoder + "project_in"}, .rows = {h}, .cols = narrow});
    project_out_ = loader.linear({.modules = {decoder + "project_out"}, .rows = {narrow}, .cols = h});
  }
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    layers_.push_back(build_layer(loader, config, decoder + "layers." + std::to_string(i)));
  }
  if (config.final_norm) final_norm_ = build_norm(loader, config, decoder + "final_layer_norm");
  stats_ = loader.stats();
}

std::unique_ptr<Model> build(const ModelConfig& config, WeightLoader& loader) { return std::make_unique<OptModel>(config, loader); }

}  // namespace

const Family kOpt{.architecture = "OPTForCausalLM", .model_type = "opt", .read_config = read_config, .build = build};

}  // namespace gossamer
