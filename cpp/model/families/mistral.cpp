// Mistral: Llama without biases and with one sliding window for all layers.
#include "model/families/rotary_decoder.h"

namespace gossamer {
namespace {

constexpr std::int64_t kMaxWindow = std::int64_t{1} << 31;

void read_config(ConfigReader& reader, ModelConfig& config) {
  read_rotary_config(reader, config, 8);
  read_head_dim(reader, config);
  reader.require_off({"layer_types", "attention_bias", "mlp_bias"});
  config.sliding_window = reader.maybe_integer("sliding_window", 1, kMaxWindow).value_or(0);
}

RotaryLayer build_layer(WeightLoader& loader, const ModelConfig& config, std::int64_t i) {
  const std::string prefix = layer_prefix(i);
  RotaryLayer layer;
  layer.attention_norm = build_rms_norm(loader, config, prefix + ".input_layernorm", config.hidden_size);
  layer.attention = build_attention(loader, config, i, {});
  layer.mlp_norm = build_rms_norm(loader, config, prefix + ".post_attention_layernorm", config.hidden_size);
  layer.mlp = build_gated_mlp(loader, config, i, false);
  return layer;
}

std::unique_ptr<Model> build(const ModelConfig& config, WeightLoader& loader) { return build_rotary_decoder(loader, config, build_layer); }

}  // namespace

const Family kMistral{.architecture = "MistralForCausalLM", .model_type = "mistral", .read_config = read_config, .build = build};

}  // namespace gossamer
