// What the configurations of several families have in common.
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "model/families/family.h"
#include "model/rope.h"

namespace gossamer {
namespace {

constexpr std::int64_t kMaxWidth = std::int64_t{1} << 22;
constexpr std::int64_t kMaxHeadDim = 1024;
constexpr std::int64_t kMaxWindow = std::int64_t{1} << 31;

// Hugging Face's names. gelu_fast differs from gelu_new in how it rounds only.
constexpr std::array<std::pair<std::string_view, Activation>, 7> kActivations{{{"silu", Activation::silu},
                                                                               {"swish", Activation::silu},
                                                                               {"relu", Activation::relu},
                                                                               {"gelu", Activation::gelu},
                                                                               {"gelu_new", Activation::gelu_tanh},
                                                                               {"gelu_fast", Activation::gelu_tanh},
                                                                               {"gelu_pytorch_tanh", Activation::gelu_tanh}}};

}  // namespace

Activation read_activation(ConfigReader& reader, std::string_view field, std::string_view fallback) {
  const std::string name = reader.text(field, std::string(fallback));
  std::string supported;
  for (const auto& [known, activation] : kActivations) {
    if (known == name) return activation;
    supported += (supported.empty() ? "" : ", ") + std::string(known);
  }
  reader.problem(field, "a supported activation: " + supported, reader.found(field));
  return Activation::none;
}

void read_rotary_config(ConfigReader& reader, ModelConfig& config, std::int64_t default_kv_heads) {
  config.intermediate_size = reader.integer("intermediate_size", 1, kMaxWidth);
  config.num_kv_heads = reader.integer("num_key_value_heads", 1, config.num_heads, default_kv_heads);
  config.norm_eps = reader.number("rms_norm_eps", {1e-12, 0.1}, 1e-6);
  config.activation = read_activation(reader, "hidden_act", "silu");
  config.tie_word_embeddings = reader.flag("tie_word_embeddings", false);
  config.word_embed_proj_dim = config.hidden_size;
  config.rope = read_rope(reader, config.max_positions);
}

void read_head_dim(ConfigReader& reader, ModelConfig& config, std::int64_t fallback) {
  if (!reader.has("head_dim") && fallback == 0) {
    if (config.hidden_size % config.num_heads != 0) {
      reader.problem("hidden_size", "a multiple of num_attention_heads = " + std::to_string(config.num_heads),
                     std::to_string(config.hidden_size));
    }
    fallback = config.hidden_size / config.num_heads;
  }
  config.head_dim = reader.integer("head_dim", 1, kMaxHeadDim, fallback);
  if (config.head_dim % 2 != 0 || config.head_dim < 1 || config.head_dim > kMaxHeadDim) {
    reader.problem("head_dim", "an even number from 2 to " + std::to_string(kMaxHeadDim), std::to_string(config.head_dim));
  }
}

void require_full_attention(ConfigReader& reader) {
  reader.require_off({"sliding_window", "use_sliding_window"});
  for (const std::string& type : reader.texts("layer_types")) {
    if (type != "full_attention") {
      reader.problem("layer_types", "only full_attention for this architecture", reader.found("layer_types"));
      return;
    }
  }
}

void read_window_layers(ConfigReader& reader, ModelConfig& config) {
  const bool use_window = reader.flag("use_sliding_window", false);
  const std::int64_t window = reader.integer("sliding_window", 1, kMaxWindow, 4096);
  const std::int64_t first = reader.integer("max_window_layers", 0, 1'000'000, 28);
  const std::vector<std::string> types = reader.texts("layer_types");
  if (!types.empty() && static_cast<std::int64_t>(types.size()) != config.num_layers) {
    reader.problem("layer_types", std::to_string(config.num_layers) + " entries", std::to_string(types.size()));
    return;
  }
  std::vector<bool> windowed;
  bool any = false;
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const std::string type =
        types.empty() ? (use_window && i >= first ? "sliding_attention" : "full_attention") : types[static_cast<std::size_t>(i)];
    if (type != "sliding_attention" && type != "full_attention") {
      reader.problem("layer_types", "full_attention or sliding_attention", reader.found("layer_types"));
      return;
    }
    windowed.push_back(type == "sliding_attention");
    any = any || windowed.back();
  }
  if (any && !use_window) reader.problem("use_sliding_window", "true, as layer_types has sliding_attention", "false");
  if (!any) return;
  config.sliding_window = window;
  config.layer_uses_window = std::move(windowed);
}

}  // namespace gossamer
