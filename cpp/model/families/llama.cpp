// Llama 2 and 3, SmolLM2, TinyLlama.
#include "model/families/rotary_decoder.h"

namespace gossamer {
namespace {

void read_config(ConfigReader& reader, ModelConfig& config) {
  read_rotary_config(reader, config, config.num_heads);
  read_head_dim(reader, config);
  require_full_attention(reader);
  config.attention_bias = reader.flag("attention_bias", false);
  config.mlp_bias = reader.flag("mlp_bias", false);
}

RotaryLayer build_layer(WeightLoader& loader, const ModelConfig& config, std::int64_t i) {
  const std::string prefix = layer_prefix(i);
  RotaryLayer layer;
  layer.attention_norm = build_rms_norm(loader, config, prefix + ".input_layernorm", config.hidden_size);
  layer.attention = build_attention(loader, config, i, {.qkv = config.attention_bias, .out = config.attention_bias});
  layer.mlp_norm = build_rms_norm(loader, config, prefix + ".post_attention_layernorm", config.hidden_size);
  layer.mlp = build_gated_mlp(loader, config, i, config.mlp_bias);
  return layer;
}

std::unique_ptr<Model> build(const ModelConfig& config, WeightLoader& loader) { return build_rotary_decoder(loader, config, build_layer); }

}  // namespace

const Family kLlama{.architecture = "LlamaForCausalLM", .model_type = "llama", .read_config = read_config, .build = build};

}  // namespace gossamer
