#include "model/config.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "model/config_reader.h"
#include "model/families/family.h"

namespace gossamer {
namespace {

// Limits that no real model reaches; they keep sizes computed from the configuration far from overflow.
constexpr std::int64_t kMaxVocab = std::int64_t{1} << 24;
constexpr std::int64_t kMaxWidth = std::int64_t{1} << 20;
constexpr std::int64_t kMaxLayers = 1000;
constexpr std::int64_t kMaxHeads = 4096;
constexpr std::int64_t kMaxPositions = std::int64_t{1} << 24;

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

const Family& read_family(ConfigReader& reader) {
  const std::vector<std::string> architectures = reader.texts("architectures");
  reader.finish();
  const std::string name = architectures.empty() ? std::string() : architectures.front();
  const Family* family = find_family(name);
  if (family == nullptr || architectures.size() > 1) {
    throw CheckpointError("the model's architecture is not supported", {.file = "config.json",
                                                                        .field = "architectures",
                                                                        .expected = "one of " + joined(supported_architectures()),
                                                                        .found = reader.found("architectures")});
  }
  return *family;
}

// Whatever changes a forward pass in some other implementation and not in ours.
void reject_unsupported_features(ConfigReader& reader) {
  reader.require_off({"quantization_config",
                      "compression_config",
                      "attn_logit_softcapping",
                      "final_logit_softcapping",
                      "attention_logit_softcapping",
                      "logit_softcapping",
                      "query_pre_attn_scalar",
                      "attention_multiplier",
                      "use_qk_norm",
                      "qk_norm",
                      "qk_layernorm",
                      "alibi",
                      "use_alibi",
                      "use_mrope",
                      "rope_interleaved",
                      "rope_interleave",
                      "attention_chunk_size",
                      "no_rope_layers",
                      "no_rope_layer_interval",
                      "attn_output_gate",
                      "use_parallel_residual",
                      "num_experts",
                      "num_local_experts",
                      "n_routed_experts",
                      "num_kv_shared_layers",
                      "is_encoder_decoder",
                      "add_cross_attention",
                      "use_bidirectional_attention",
                      "scale_embedding"});
  reader.require_one({"embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale", "scale_emb", "attn_scale"});
  for (const char* field : {"torch_dtype", "dtype"}) reader.text(field, "auto");
}

void read_token_ids(ConfigReader& reader, ModelConfig& config) {
  if (const auto bos = reader.maybe_integer("bos_token_id", 0, config.vocab_size - 1)) config.bos_token_id = bos;
  auto eos = reader.integers("eos_token_id", 0, config.vocab_size - 1);
  if (!eos.empty()) config.eos_token_ids = std::move(eos);
}

}  // namespace

bool ModelConfig::window_in_layer(std::int64_t layer) const {
  return sliding_window > 0 && (layer_uses_window.empty() || layer_uses_window[static_cast<std::size_t>(layer)]);
}

ModelConfig parse_model_config(std::string_view config_json, std::string_view generation_config_json) {
  ConfigReader reader("config.json", config_json);
  const Family& family = read_family(reader);
  ModelConfig config;
  config.architecture = family.architecture;
  config.model_type = family.model_type;
  if (reader.text("model_type", config.model_type) != config.model_type) {
    reader.problem("model_type", config.model_type + " for " + config.architecture, reader.found("model_type"));
  }
  config.vocab_size = reader.integer("vocab_size", 1, kMaxVocab);
  config.hidden_size = reader.integer("hidden_size", 1, kMaxWidth);
  config.num_layers = reader.integer("num_hidden_layers", 1, kMaxLayers);
  config.num_heads = reader.integer("num_attention_heads", 1, kMaxHeads);
  config.max_positions = reader.integer("max_position_embeddings", 1, kMaxPositions);
  read_token_ids(reader, config);
  reject_unsupported_features(reader);
  family.read_config(reader, config);
  if (config.num_kv_heads > 0 && config.num_heads % config.num_kv_heads != 0) {
    reader.problem("num_key_value_heads", "a divisor of num_attention_heads = " + std::to_string(config.num_heads),
                   std::to_string(config.num_kv_heads));
  }
  reader.finish();
  if (!generation_config_json.empty()) {
    ConfigReader generation("generation_config.json", generation_config_json);
    read_token_ids(generation, config);
    generation.finish();
  }
  return config;
}

GenerationDefaults parse_generation_defaults(std::string_view generation_config_json) {
  GenerationDefaults defaults;
  if (generation_config_json.empty()) return defaults;
  ConfigReader reader("generation_config.json", generation_config_json);
  defaults.temperature = reader.maybe_number("temperature", {0.0, 1e6});
  defaults.top_p = reader.maybe_number("top_p", {0.0, 1.0});
  defaults.min_p = reader.maybe_number("min_p", {0.0, 1.0});
  defaults.repetition_penalty = reader.maybe_number("repetition_penalty", {1e-6, 1e6});
  defaults.top_k = reader.maybe_integer("top_k", 0, kMaxVocab);
  defaults.max_new_tokens = reader.maybe_integer("max_new_tokens", 1, kMaxPositions);
  defaults.do_sample = reader.maybe_flag("do_sample");
  reader.finish();
  return defaults;
}

std::vector<std::string> supported_architectures() {
  std::vector<std::string> names;
  for (const Family* family : families()) names.emplace_back(family->architecture);
  return names;
}

}  // namespace gossamer
