#include "model/families/rotary_decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace gossamer {

RotaryDecoder::RotaryDecoder(const ModelConfig& config, Vocabulary vocabulary, RopeTables rope, std::vector<RotaryLayer> layers,
                             RmsNorm norm, const WeightLoader& loader)
    : config_(config),
      stats_(loader.stats()),
      dtype_(loader.ops().activation_dtype()),
      vocabulary_(std::move(vocabulary)),
      rope_(std::move(rope)),
      layers_(std::move(layers)),
      norm_(std::move(norm)) {}

void RotaryDecoder::embed(ExecContext& ctx, const Batch& batch, const Tensor& hidden) const {
  vocabulary_.embed(ctx, hidden, batch.token_ids);
}

void RotaryDecoder::attention(ExecContext& ctx, std::int64_t i, const KvCache& kv, const Batch& batch, const Tensor& hidden) const {
  const Arena::Scope scope(ctx.arena);
  const RotaryLayer& layer = layers_[static_cast<std::size_t>(i)];
  const Tensor normed = ctx.arena.take(dtype_, {hidden.size(0), config_.hidden_size});
  layer.attention_norm.apply(ctx, normed, hidden);
  layer.attention.apply(ctx, kv.layer(i), batch, &rope_.view, normed, hidden);
}

void RotaryDecoder::mlp(ExecContext& ctx, std::int64_t i, const Tensor& hidden) const {
  const Arena::Scope scope(ctx.arena);
  const RotaryLayer& layer = layers_[static_cast<std::size_t>(i)];
  const Tensor normed = ctx.arena.take(dtype_, {hidden.size(0), config_.hidden_size});
  layer.mlp_norm.apply(ctx, normed, hidden);
  layer.mlp.apply(ctx, normed, hidden);
}

void RotaryDecoder::head(ExecContext& ctx, const Tensor& hidden, const Tensor& logits) const {
  const Arena::Scope scope(ctx.arena);
  const Tensor normed = ctx.arena.take(dtype_, {hidden.size(0), config_.hidden_size});
  norm_.apply(ctx, normed, hidden);
  vocabulary_.logits(ctx, logits, normed);
}

std::size_t RotaryDecoder::arena_bytes(std::int64_t max_tokens, std::int64_t max_logits) const {
  std::size_t in_layer = 0;
  for (const RotaryLayer& layer : layers_) {
    in_layer = std::max({in_layer, layer.attention.scratch_bytes(dtype_, max_tokens), layer.mlp.scratch_bytes(dtype_, max_tokens)});
  }
  const std::size_t layers = arena_bytes_of(dtype_, max_tokens, config_.hidden_size) + in_layer;
  const std::size_t head =
      2 * arena_bytes_of(dtype_, max_logits, config_.hidden_size) + vocabulary_.logits_scratch_bytes(max_logits, config_.vocab_size);
  return arena_bytes_of(dtype_, max_tokens, config_.hidden_size) + std::max(layers, head);
}

KvCacheShape RotaryDecoder::kv_shape() const {
  return {.num_layers = config_.num_layers,
          .num_kv_heads = layers_.front().attention.num_kv_heads,
          .head_dim = config_.head_dim,
          .dtype = dtype_};
}

std::string layer_prefix(std::int64_t layer) { return "model.layers." + std::to_string(layer); }

RmsNorm build_rms_norm(WeightLoader& loader, const ModelConfig& config, const std::string& module, std::int64_t size) {
  return {.weight = loader.vector(module + ".weight", size), .eps = static_cast<float>(config.norm_eps)};
}

Attention build_attention(WeightLoader& loader, const ModelConfig& config, std::int64_t layer, AttentionBias bias) {
  const std::string prefix = layer_prefix(layer) + ".self_attn.";
  const std::int64_t q_size = config.num_heads * config.head_dim;
  const std::int64_t kv_size = config.num_kv_heads * config.head_dim;
  const std::int64_t kv_parts = loader.kv_parts(config);
  Attention attention;
  attention.qkv = loader.linear({.modules = {prefix + "q_proj", prefix + "k_proj", prefix + "v_proj"},
                                 .rows = {q_size, kv_size, kv_size},
                                 .cols = config.hidden_size,
                                 .bias = bias.qkv,
                                 .shard = Shard::rows,
                                 .parts = {loader.num_ranks(), kv_parts, kv_parts}});
  attention.out =
      loader.linear({.modules = {prefix + "o_proj"}, .rows = {config.hidden_size}, .cols = q_size, .bias = bias.out, .shard = Shard::cols});
  attention.num_heads = loader.share(config.num_heads);
  attention.num_kv_heads = config.num_kv_heads / kv_parts;
  attention.head_dim = config.head_dim;
  attention.params.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)));
  attention.params.sliding_window = config.window_in_layer(layer) ? config.sliding_window : 0;
  return attention;
}

GatedMlp build_gated_mlp(WeightLoader& loader, const ModelConfig& config, std::int64_t layer, bool bias) {
  const std::string prefix = layer_prefix(layer) + ".mlp.";
  GatedMlp mlp;
  mlp.gate_up = loader.linear({.modules = {prefix + "gate_proj", prefix + "up_proj"},
                               .rows = {config.intermediate_size, config.intermediate_size},
                               .cols = config.hidden_size,
                               .bias = bias,
                               .shard = Shard::rows});
  mlp.down = loader.linear({.modules = {prefix + "down_proj"},
                            .rows = {config.hidden_size},
                            .cols = config.intermediate_size,
                            .bias = bias,
                            .shard = Shard::cols});
  mlp.intermediate_size = loader.share(config.intermediate_size);
  mlp.activation = config.activation;
  return mlp;
}

std::unique_ptr<Model> build_rotary_decoder(WeightLoader& loader, const ModelConfig& config,
                                            RotaryLayer (*build_layer)(WeightLoader&, const ModelConfig&, std::int64_t layer)) {
  Vocabulary vocabulary = loader.vocabulary("model.embed_tokens", "lm_head", config);
  RopeTables rope = loader.rope(config);
  std::vector<RotaryLayer> layers;
  for (std::int64_t i = 0; i < config.num_layers; ++i) layers.push_back(build_layer(loader, config, i));
  RmsNorm norm = build_rms_norm(loader, config, "model.norm", config.hidden_size);
  return std::make_unique<RotaryDecoder>(config, std::move(vocabulary), std::move(rope), std::move(layers), std::move(norm), loader);
}

}  // namespace gossamer
