#include "model/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"

namespace gossamer {
namespace {

using nlohmann::json;

json llama() {
  return json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-05,
    "hidden_act": "silu", "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
    "rope_theta": 10000.0, "rope_scaling": null, "attention_bias": false, "attention_dropout": 0.0, "initializer_range": 0.02,
    "pretraining_tp": 1, "use_cache": true, "transformers_version": "4.42.0"})");
}

json qwen2() {
  json config = llama();
  config["architectures"] = {"Qwen2ForCausalLM"};
  config["model_type"] = "qwen2";
  config["use_sliding_window"] = false;
  config["sliding_window"] = 32768;
  config["max_window_layers"] = 2;
  return config;
}

json qwen3() {
  json config = qwen2();
  config["architectures"] = {"Qwen3ForCausalLM"};
  config["model_type"] = "qwen3";
  config["head_dim"] = 32;
  return config;
}

json mistral() {
  json config = llama();
  config["architectures"] = {"MistralForCausalLM"};
  config["model_type"] = "mistral";
  config["sliding_window"] = 16;
  config.erase("attention_bias");
  return config;
}

json opt() {
  return json::parse(R"({
    "architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": 96, "hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": 256, "activation_function": "relu", "do_layer_norm_before": true,
    "_remove_final_layer_norm": false, "word_embed_proj_dim": 64, "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1,
    "dropout": 0.1, "layerdrop": 0.0, "init_std": 0.02, "enable_bias": true, "layer_norm_elementwise_affine": true, "dtype": "float16"})");
}

json with(json config, const char* field, json value) {
  config[field] = std::move(value);
  return config;
}

ModelConfig parse(const json& config) { return parse_model_config(config.dump()); }

CheckpointFault fault_of(const json& config) {
  try {
    parse(config);
  } catch (const CheckpointError& error) {
    return error.fault();
  }
  ADD_FAILURE() << "accepted: " << config.dump();
  return {};
}

TEST(Config, ReadsLlama) {
  const ModelConfig config = parse(llama());
  EXPECT_EQ(config.architecture, "LlamaForCausalLM");
  EXPECT_EQ(config.vocab_size, 96);
  EXPECT_EQ(config.hidden_size, 64);
  EXPECT_EQ(config.intermediate_size, 128);
  EXPECT_EQ(config.num_layers, 3);
  EXPECT_EQ(config.num_heads, 4);
  EXPECT_EQ(config.num_kv_heads, 2);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.max_positions, 256);
  EXPECT_DOUBLE_EQ(config.norm_eps, 1e-5);
  EXPECT_EQ(config.activation, Activation::silu);
  EXPECT_FALSE(config.tie_word_embeddings);
  ASSERT_TRUE(config.rope.has_value());
  EXPECT_EQ(config.rope->scaling, RopeScaling::none);
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_EQ(config.eos_token_ids, std::vector<std::int64_t>{2});
  EXPECT_FALSE(config.window_in_layer(0));
}

TEST(Config, FillsInWhatHuggingFaceFillsIn) {
  json config = llama();
  for (const char* field : {"num_key_value_heads", "rms_norm_eps", "hidden_act", "tie_word_embeddings", "rope_theta", "eos_token_id"}) {
    config.erase(field);
  }
  const ModelConfig parsed = parse(config);
  EXPECT_EQ(parsed.num_kv_heads, 4);
  EXPECT_DOUBLE_EQ(parsed.norm_eps, 1e-6);
  EXPECT_EQ(parsed.activation, Activation::silu);
  EXPECT_DOUBLE_EQ(parsed.rope->theta, 10000.0);
  EXPECT_TRUE(parsed.eos_token_ids.empty());
  json opt_config = opt();
  opt_config.erase("word_embed_proj_dim");
  EXPECT_EQ(parse(opt_config).word_embed_proj_dim, 64);
  EXPECT_TRUE(parse(opt_config).tie_word_embeddings);
}

TEST(Config, BothSpellingsOfRopeMeanTheSame) {
  const json scaling = {{"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 64}};
  json old_spelling = with(llama(), "rope_theta", 500000.0);
  old_spelling["rope_scaling"] = with(scaling, "rope_type", "llama3");
  json new_spelling = llama();
  new_spelling.erase("rope_theta");
  new_spelling.erase("rope_scaling");
  new_spelling["rope_parameters"] = with(with(scaling, "rope_type", "llama3"), "rope_theta", 500000.0);
  for (const json& config : {old_spelling, new_spelling}) {
    const RopeConfig rope = parse(config).rope.value();
    EXPECT_EQ(rope.scaling, RopeScaling::llama3);
    EXPECT_DOUBLE_EQ(rope.theta, 500000.0);
    EXPECT_DOUBLE_EQ(rope.factor, 8.0);
    EXPECT_DOUBLE_EQ(rope.low_freq_factor, 1.0);
    EXPECT_DOUBLE_EQ(rope.high_freq_factor, 4.0);
    EXPECT_EQ(rope.original_max_positions, 64);
  }
  const RopeConfig linear = parse(with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 2.0}})).rope.value();
  EXPECT_EQ(linear.scaling, RopeScaling::linear);
  EXPECT_DOUBLE_EQ(linear.factor, 2.0);
}

TEST(Config, ResolvesYarnsAttentionFactor) {
  const json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}};
  EXPECT_NEAR(parse(with(llama(), "rope_scaling", yarn)).rope->attention_factor, 0.1 * std::log(4.0) + 1.0, 1e-12);
  EXPECT_DOUBLE_EQ(parse(with(llama(), "rope_scaling", with(yarn, "attention_factor", 1.5))).rope->attention_factor, 1.5);
  EXPECT_DOUBLE_EQ(parse(with(llama(), "rope_scaling", with(with(yarn, "mscale", 1.0), "mscale_all_dim", 1.0))).rope->attention_factor,
                   1.0);
}

TEST(Config, ReadsWindows) {
  const ModelConfig all = parse(mistral());
  EXPECT_EQ(all.sliding_window, 16);
  EXPECT_TRUE(all.window_in_layer(0));
  EXPECT_FALSE(parse(with(mistral(), "sliding_window", nullptr)).window_in_layer(0));

  EXPECT_FALSE(parse(qwen2()).window_in_layer(2));  // use_sliding_window is false
  const ModelConfig upper = parse(with(with(qwen2(), "use_sliding_window", true), "sliding_window", 8));
  EXPECT_EQ(upper.sliding_window, 8);
  EXPECT_FALSE(upper.window_in_layer(1));
  EXPECT_TRUE(upper.window_in_layer(2));

  json listed = with(with(qwen3(), "use_sliding_window", true), "sliding_window", 8);
  listed["layer_types"] = {"sliding_attention", "full_attention", "full_attention"};
  EXPECT_TRUE(parse(listed).window_in_layer(0));
  EXPECT_FALSE(parse(listed).window_in_layer(1));
}

TEST(Config, ReadsTheOtherFamilies) {
  const ModelConfig with_head_dim = parse(qwen3());
  EXPECT_EQ(with_head_dim.head_dim, 32);
  const ModelConfig plain = parse(opt());
  EXPECT_FALSE(plain.rope.has_value());
  EXPECT_EQ(plain.num_kv_heads, 4);
  EXPECT_EQ(plain.activation, Activation::relu);
  EXPECT_TRUE(plain.norm_before && plain.final_norm && plain.norm_affine && plain.attention_bias);
  const ModelConfig like_350m = parse(with(with(opt(), "do_layer_norm_before", false), "word_embed_proj_dim", 32));
  EXPECT_FALSE(like_350m.norm_before || like_350m.final_norm);
  EXPECT_EQ(like_350m.word_embed_proj_dim, 32);
}

TEST(Config, GenerationConfigWins) {
  const ModelConfig config = parse_model_config(llama().dump(), R"({"eos_token_id": [7, 9], "bos_token_id": 3})");
  EXPECT_EQ(config.eos_token_ids, (std::vector<std::int64_t>{7, 9}));
  EXPECT_EQ(config.bos_token_id, 3);
  const GenerationDefaults defaults =
      parse_generation_defaults(R"({"temperature": 0.6, "top_p": 0.9, "top_k": 20, "do_sample": true, "repetition_penalty": 1.05})");
  EXPECT_DOUBLE_EQ(defaults.temperature.value(), 0.6);
  EXPECT_DOUBLE_EQ(defaults.top_p.value(), 0.9);
  EXPECT_EQ(defaults.top_k, 20);
  EXPECT_EQ(defaults.do_sample, true);
  EXPECT_DOUBLE_EQ(defaults.repetition_penalty.value(), 1.05);
  EXPECT_FALSE(defaults.min_p || defaults.max_new_tokens);
  EXPECT_THROW(parse_generation_defaults(R"({"top_p": 1.5})"), CheckpointError);
  EXPECT_THROW(parse_model_config(llama().dump(), R"({"eos_token_id": [96]})"), CheckpointError);
}

TEST(Config, UnknownArchitectureNamesTheSupportedOnes) {
  const CheckpointFault fault = fault_of(with(llama(), "architectures", json::array({"GrokForCausalLM"})));
  EXPECT_EQ(fault.field, "architectures");
  for (const std::string& name : supported_architectures()) EXPECT_NE(fault.expected.find(name), std::string::npos) << name;
  EXPECT_NE(fault.found.find("GrokForCausalLM"), std::string::npos);
  EXPECT_EQ(supported_architectures().size(), 5U);
}

TEST(Config, UnknownRopeTypeNamesTheSupportedOnes) {
  const CheckpointFault fault = fault_of(with(llama(), "rope_scaling", {{"rope_type", "longrope"}, {"factor", 2.0}}));
  EXPECT_EQ(fault.field, "rope_scaling.rope_type");
  EXPECT_NE(fault.expected.find("llama3"), std::string::npos);
}

TEST(Config, ListsAllProblemsAtOnce) {
  json config = llama();
  config["vocab_size"] = 0;
  config["num_hidden_layers"] = 1'000'000'000;
  config["hidden_act"] = "mish";
  config.erase("intermediate_size");
  const CheckpointFault fault = fault_of(config);
  EXPECT_EQ(fault.file, "config.json");
  for (const char* field : {"vocab_size", "num_hidden_layers", "hidden_act", "intermediate_size"}) {
    EXPECT_NE(fault.field.find(field), std::string::npos) << field;
    EXPECT_NE(fault.expected.find(field), std::string::npos) << field;
    EXPECT_NE(fault.found.find(field), std::string::npos) << field;
  }
}

struct BadField {
  const char* name;
  json (*base)();
  const char* field;  // to set, and the one that must be named
  json value;
};

class RejectedConfig : public testing::TestWithParam<BadField> {};

TEST_P(RejectedConfig, NamesTheField) {
  const CheckpointFault fault = fault_of(with(GetParam().base(), GetParam().field, GetParam().value));
  EXPECT_EQ(fault.file, "config.json");
  EXPECT_NE(fault.field.find(GetParam().field), std::string::npos) << "named: " << fault.field;
  EXPECT_FALSE(fault.expected.empty());
  EXPECT_FALSE(fault.found.empty());
}

const BadField kBadFields[] = {
    {"ZeroVocab", llama, "vocab_size", 0},
    {"NegativeHidden", llama, "hidden_size", -64},
    {"FractionalHidden", llama, "hidden_size", 64.5},
    {"TextHidden", llama, "hidden_size", "64"},
    {"HugeHidden", llama, "hidden_size", 18446744073709551615ULL},
    {"HeadsDoNotDivide", llama, "hidden_size", 66},
    {"KvHeadsDoNotDivide", llama, "num_key_value_heads", 3},
    {"MoreKvHeadsThanHeads", llama, "num_key_value_heads", 8},
    {"TooManyLayers", llama, "num_hidden_layers", 1'000'000'000},
    {"NoPositions", llama, "max_position_embeddings", 0},
    {"ZeroEps", llama, "rms_norm_eps", 0.0},
    {"NegativeEps", llama, "rms_norm_eps", -1e-5},
    {"ZeroTheta", llama, "rope_theta", 0},
    {"OddHeadDim", llama, "head_dim", 15},
    {"EosBeyondVocab", llama, "eos_token_id", 96},
    {"EosListBeyondVocab", llama, "eos_token_id", {1, 2, 96}},
    {"NegativeBos", llama, "bos_token_id", -1},
    {"UnknownActivation", llama, "hidden_act", "quick_gelu"},
    {"TieIsText", llama, "tie_word_embeddings", "yes"},
    {"OtherModelType", llama, "model_type", "gemma"},
    {"LlamaWithWindow", llama, "sliding_window", 128},
    {"LlamaWithWindowLayers", llama, "layer_types", {"sliding_attention", "full_attention", "full_attention"}},
    {"PartialRotary", llama, "partial_rotary_factor", 0.5},
    {"AttentionSoftcap", llama, "attn_logit_softcapping", 50.0},
    {"FinalSoftcap", llama, "final_logit_softcapping", 30.0},
    {"LlamaWithQkNorm", llama, "use_qk_norm", true},
    {"Experts", llama, "num_local_experts", 8},
    {"Quantized", llama, "quantization_config", {{"quant_method", "gptq"}}},
    {"InterleavedRope", llama, "rope_interleaved", true},
    {"ResidualMultiplier", llama, "residual_multiplier", 0.5},
    {"RopeScalingIsText", llama, "rope_scaling", "linear"},
    {"NewRopeParametersOfUnknownType", llama, "rope_parameters", {{"rope_type", "proportional"}}},
    {"MistralZeroWindow", mistral, "sliding_window", 0},
    {"MistralLayerTypes", mistral, "layer_types", {"full_attention"}},
    {"QwenWindowLayersTooShort", qwen2, "layer_types", {"full_attention"}},
    {"QwenUnknownLayerType", qwen2, "layer_types", {"full_attention", "linear_attention", "full_attention"}},
    {"QwenMrope", qwen2, "use_mrope", true},
    {"OptFfnMissing", opt, "ffn_dim", nullptr},
    {"OptUnknownActivation", opt, "activation_function", "gelu_10"},
    {"OptHeads", opt, "hidden_size", 62},
};

INSTANTIATE_TEST_SUITE_P(Fields, RejectedConfig, testing::ValuesIn(kBadFields), [](const auto& one) { return one.param.name; });

TEST(Config, RejectsBadRopeScaling) {
  const auto rejected = [](json scaling, const char* field) {
    EXPECT_EQ(fault_of(with(llama(), "rope_scaling", std::move(scaling))).field, std::string("rope_scaling.") + field);
  };
  const json llama3 = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}};
  rejected(with(llama3, "factor", 0.0), "factor");
  rejected(with(llama3, "high_freq_factor", 1.0), "high_freq_factor");
  rejected(with(llama3, "low_freq_factor", nullptr), "low_freq_factor");
  rejected(with(llama3, "long_factor", {1.0, 2.0}), "long_factor");
  rejected(with(llama3, "type", "linear"), "type");
  rejected(with(llama3, "partial_rotary_factor", 0.25), "partial_rotary_factor");
  rejected({{"rope_type", "linear"}}, "factor");
  const json linear = {{"rope_type", "linear"}, {"factor", 2.0}};
  EXPECT_EQ(fault_of(with(with(llama(), "rope_scaling", linear), "rope_parameters", linear)).field, "rope_scaling");
  EXPECT_EQ(fault_of(with(llama(), "rope_parameters", with(linear, "rope_theta", 5000.0))).field, "rope_theta");
}

TEST(Config, RejectsTextThatIsNotOneStrictObject) {
  const std::vector<std::string> texts = {"",
                                          "[]",
                                          "{",
                                          "{\"vocab_size\": 1, \"vocab_size\": 2}",
                                          "{} x",
                                          "{\"rope_theta\": NaN}",
                                          std::string(100, '[') + std::string(100, ']'),
                                          "{\"a\": \"\xff\"}"};
  for (const std::string& text : texts) EXPECT_THROW(parse_model_config(text), CheckpointError) << text;
  const std::string deep = "{\"architectures\": " + std::string(100, '[') + std::string(100, ']') + "}";
  EXPECT_THROW(parse_model_config(deep), CheckpointError);
}

TEST(Config, EscapesWhatItQuotes) {
  const CheckpointFault fault = fault_of(with(llama(), "hidden_act", "a\nb\x1b[31m"));
  EXPECT_EQ(fault.found.find('\n'), std::string::npos);
  EXPECT_EQ(fault.found.find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace gossamer
