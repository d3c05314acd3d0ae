// ModelConfig: config.json, parsed strictly, as plain data. transformers 4 and 5 spellings.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ops/ops.h"

namespace gossamer {

enum class RopeScaling { none, linear, llama3, dynamic_ntk, yarn };

struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1.0;
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  std::int64_t original_max_positions = 0;
  double beta_fast = 32.0;  // yarn
  double beta_slow = 1.0;
  bool truncate = true;           // yarn: round the correction range to whole dimensions
  double attention_factor = 1.0;  // of cos and sin; yarn's default and mscale are resolved by the parser
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  std::string model_type;    // "llama"
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_layers = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_positions = 0;
  double norm_eps = 1e-5;
  Activation activation = Activation::silu;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  std::int64_t sliding_window = 0;      // 0 = none
  std::vector<bool> layer_uses_window;  // empty = all layers alike
  std::optional<RopeConfig> rope;       // nullopt: learned positions
  // OPT
  std::int64_t word_embed_proj_dim = 0;
  bool norm_before = true;  // do_layer_norm_before
  bool final_norm = true;   // !_remove_final_layer_norm
  bool norm_affine = true;  // layer_norm_elementwise_affine

  std::optional<std::int64_t> bos_token_id;
  std::vector<std::int64_t> eos_token_ids;  // generation_config.json wins over config.json

  bool window_in_layer(std::int64_t layer) const;
};

// generation_config.json's sampling defaults, as found.
struct GenerationDefaults {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<std::int64_t> top_k, max_new_tokens;
  std::optional<bool> do_sample;
};

// Throws CheckpointError listing every problem at once, or naming the supported architectures / rope types.
ModelConfig parse_model_config(std::string_view config_json, std::string_view generation_config_json = {});
GenerationDefaults parse_generation_defaults(std::string_view generation_config_json);
std::vector<std::string> supported_architectures();

}  // namespace gossamer
