// A model family: how to read its configuration and how to build it from a checkpoint. One file each, listed in registry.cpp.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "model/config_reader.h"
#include "model/model.h"

namespace gossamer {

class WeightLoader;

struct Family {
  std::string_view architecture;  // as in config.json's `architectures`
  std::string_view model_type;
  void (*read_config)(ConfigReader& reader, ModelConfig& config);  // the fields beyond those every family has
  std::unique_ptr<Model> (*build)(const ModelConfig& config, WeightLoader& loader);
};

extern const Family kLlama, kMistral, kOpt, kQwen2, kQwen3;

std::span<const Family* const> families();
const Family* find_family(std::string_view architecture);  // null when unknown

// Shared readers of configuration fields, for the families' read_config.
Activation read_activation(ConfigReader& reader, std::string_view field, std::string_view fallback);
// Sizes, norm_eps, activation, tied head and rope, as Llama, Mistral and Qwen spell them.
void read_rotary_config(ConfigReader& reader, ModelConfig& config, std::int64_t default_kv_heads);
// fallback 0 = hidden_size / num_heads.
void read_head_dim(ConfigReader& reader, ModelConfig& config, std::int64_t fallback = 0);
// No sliding window in any layer.
void require_full_attention(ConfigReader& reader);
// Qwen's use_sliding_window, sliding_window, max_window_layers and layer_types.
void read_window_layers(ConfigReader& reader, ModelConfig& config);

}  // namespace gossamer
