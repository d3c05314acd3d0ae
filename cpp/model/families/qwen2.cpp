// Qwen2 and 2.5: biases on q, k and v only; upper layers may use a sliding window.
#include "model/families/rotary_decoder.h"

namespace gossamer {
namespace {

void read_config(ConfigReader& reader, ModelConfig& config) {
  read_rotary_config(reader, config, 32);
  read_head_dim(reader, config);
  read_window_layers(reader, config);
}

RotaryLayer build_layer(WeightLoader& loader, const ModelConfig& config, std::int64_t i) {
  const std::string prefix = layer_prefix(i);
  RotaryLayer layer;
  layer.attention_norm = build_rms_norm(loader, config, prefix + ".input_layernorm", config.hidden_size);
  layer.attention = build_attention(loader, config, i, {.qkv = true, .out = false});
  layer.mlp_norm = build_rms_norm(loader, config, prefix + ".post_attention_layernorm", config.hidden_size);
  layer.mlp = build_gated_mlp(loader, config, i, false);
  return layer;
}

std::unique_ptr<Model> build(const ModelConfig& config, WeightLoader& loader) { return build_rotary_decoder(loader, config, build_layer); }

}  // namespace

const Family kQwen2{.architecture = "Qwen2ForCausalLM", .model_type = "qwen2", .read_config = read_config, .build = build};

}  // namespace gossamer
