// Qwen3: RMS norms on each head's q and k before the rotation; head_dim is a field of its own.
#include "model/families/rotary_decoder.h"

namespace gossamer {
namespace {

constexpr std::int64_t kDefaultHeadDim = 128;

void read_config(ConfigReader& reader, ModelConfig& config) {
  read_rotary_config(reader, config, 32);
  read_head_dim(reader, config, kDefaultHeadDim);
  read_window_layers(reader, config);
  config.attention_bias = reader.flag("attention_bias", false);
}

RotaryLayer build_layer(WeightLoader& loader, const ModelConfig& config, std::int64_t i) {
  const std::string prefix = layer_prefix(i);
  RotaryLayer layer;
  layer.attention_norm = build_rms_norm(loader, config, prefix + ".input_layernorm", config.hidden_size);
  layer.attention = build_attention(loader, config, i, {.qkv = config.attention_bias, .out = config.attention_bias});
  layer.attention.q_norm = build_rms_norm(loader, config, prefix + ".self_attn.q_norm", config.head_dim);
  layer.attention.k_norm = build_rms_norm(loader, config, prefix + ".self_attn.k_norm", config.head_dim);
  layer.mlp_norm = build_rms_norm(loader, config, prefix + ".post_attention_layernorm", config.hidden_size);
  layer.mlp = build_gated_mlp(loader, config, i, false);
  return layer;
}

std::unique_ptr<Model> build(const ModelConfig& config, WeightLoader& loader) { return build_rotary_decoder(loader, config, build_layer); }

}  // namespace

const Family kQwen3{.architecture = "Qwen3ForCausalLM", .model_type = "qwen3", .read_config = read_config, .build = build};

}  // namespace gossamer
