// Tiny random models of every family as checkpoints in memory, and a session that runs one over the paged cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cpu/cpu_ops.h"
#include "model/model.h"
#include "support/random.h"
#include "support/test_checkpoint.h"
#include "support/test_tensor.h"

namespace gossamer::testing {

using nlohmann::json;

struct TinyTensor {
  std::vector<std::int64_t> shape;
  std::vector<float> values;
  DType dtype = DType::f32;
  bool sparse = false;
};

struct TinyModel {
  json config;
  std::map<std::string, TinyTensor> tensors;
};

inline json rotary_config(const char* architecture, const char* model_type) {
  return {{"architectures", {architecture}}, {"model_type", model_type}, {"vocab_size", 48},         {"hidden_size", 32},
          {"intermediate_size", 40},         {"num_hidden_layers", 3},   {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"max_position_embeddings", 64},   {"rope_theta", 100.0},      {"rms_norm_eps", 1e-3}};
}

inline json opt_config() {
  return {{"architectures", {"OPTForCausalLM"}},
          {"model_type", "opt"},
          {"vocab_size", 48},
          {"hidden_size", 32},
          {"ffn_dim", 40},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 4},
          {"max_position_embeddings", 64}};
}

// By name: every family and the variants that take another path through the code.
inline const std::map<std::string, json>& tiny_configs() {
  static const std::map<std::string, json> configs = [] {
    std::map<std::string, json> all;
    all["llama"] = rotary_config("LlamaForCausalLM", "llama");
    all["llama_tied_bias"] = all["llama"];
    all["llama_tied_bias"].update({{"tie_word_embeddings", true}, {"attention_bias", true}, {"mlp_bias", true}});
    all["mistral"] = rotary_config("MistralForCausalLM", "mistral");
    all["mistral"]["sliding_window"] = 5;
    all["qwen2"] = rotary_config("Qwen2ForCausalLM", "qwen2");
    all["qwen2"].update({{"use_sliding_window", true}, {"sliding_window", 5}, {"max_window_layers", 1}});
    all["qwen3"] = rotary_config("Qwen3ForCausalLM", "qwen3");
    all["qwen3"].update({{"head_dim", 16}, {"tie_word_embeddings", true}});
    all["opt"] = opt_config();
    all["opt_350m"] = opt_config();
    all["opt_350m"].update({{"do_layer_norm_before", false}, {"word_embed_proj_dim", 24}});
    return all;
  }();
  return configs;
}

// Rotary families: adds every tensor of the layers. Written out here so that the loader's own table is not its own judge.
inline std::map<std::string, std::vector<std::int64_t>> rotary_shapes(const json& config) {
  const std::int64_t hidden = config["hidden_size"], inner = config["intermediate_size"], vocab = config["vocab_size"];
  const std::int64_t heads = config["num_attention_heads"], kv_heads = config["num_key_value_heads"];
  const std::int64_t head_dim = config.value("head_dim", hidden / heads);
  const std::string family = config["model_type"];
  std::map<std::string, std::vector<std::int64_t>> shapes{{"model.embed_tokens.weight", {vocab, hidden}}, {"model.norm.weight", {hidden}}};
  if (!config.value("tie_word_embeddings", false)) shapes["lm_head.weight"] = {vocab, hidden};
  for (int i = 0; i < config["num_hidden_layers"]; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const auto linear = [&](const std::string& module, std::int64_t rows, std::int64_t cols, bool bias) {
      shapes[layer + module + ".weight"] = {rows, cols};
      if (bias) shapes[layer + module + ".bias"] = {rows};
    };
    const bool attention_bias = config.value("attention_bias", false);
    const bool mlp_bias = config.value("mlp_bias", false);
    linear("self_attn.q_proj", heads * head_dim, hidden, attention_bias || family == "qwen2");
    linear("self_attn.k_proj", kv_heads * head_dim, hidden, attention_bias || family == "qwen2");
    linear("self_attn.v_proj", kv_heads * head_dim, hidden, attention_bias || family == "qwen2");
    linear("self_attn.o_proj", hidden, heads * head_dim, attention_bias);
    linear("mlp.gate_proj", inner, hidden, mlp_bias);
    linear("mlp.up_proj", inner, hidden, mlp_bias);
    linear("mlp.down_proj", hidden, inner, mlp_bias);
    shapes[layer + "input_layernorm.weight"] = shapes[layer + "post_attention_layernorm.weight"] = {hidden};
    if (family == "qwen3") shapes[layer + "self_attn.q_norm.weight"] = shapes[layer + "self_attn.k_norm.weight"] = {head_dim};
  }
  return shapes;
}

inline std::map<std::string, std::vector<std::int64_t>> opt_shapes(const json& config) {
  const std::int64_t hidden = config["hidden_size"], inner = config["ffn_dim"], vocab = config["vocab_size"];
  const std::int64_t narrow = config.value("word_embed_proj_dim", hidden), positions = config["max_position_embeddings"];
  const std::string decoder = "model.decoder.";
  std::map<std::string, std::vector<std::int64_t>> shapes{{decoder + "embed_tokens.weight", {vocab, narrow}},
                                                          {decoder + "embed_positions.weight", {positions + 2, hidden}}};
  const auto norm = [&](const std::string& module) { shapes[module + ".weight"] = shapes[module + ".bias"] = {hidden}; };
  if (narrow != hidden) {
    shapes[decoder + "project_in.weight"] = {hidden, narrow};
    shapes[decoder + "project_out.weight"] = {narrow, hidden};
  }
  if (config.value("do_layer_norm_before", true)) norm(decoder + "final_layer_norm");
  for (int i = 0; i < config["num_hidden_layers"]; ++i) {
    const std::string layer = decoder + "layers." + std::to_string(i) + ".";
    const auto linear = [&](const std::string& module, std::int64_t rows, std::int64_t cols) {
      shapes[layer + module + ".weight"] = {rows, cols};
      shapes[layer + module + ".bias"] = {rows};
    };
    for (const char* part : {"q_proj", "k_proj", "v_proj", "out_proj"}) linear("self_attn." + std::string(part), hidden, hidden);
    linear("fc1", inner, hidden);
    linear("fc2", hidden, inner);
    norm(layer + "self_attn_layer_norm");
    norm(layer + "final_layer_norm");
  }
  return shapes;
}

// Linears of the layers are stored sparse at the given density when it is below 1.
inline TinyModel tiny_model(const std::string& variant, double density = 1.0, DType dtype = DType::f32) {
  TinyModel model{tiny_configs().at(variant), {}};
  Random random(variant.size() * 1000 + static_cast<std::uint64_t>(variant.back()));
  for (const auto& [name, shape] : model.config["model_type"] == "opt" ? opt_shapes(model.config) : rotary_shapes(model.config)) {
    const bool norm = name.find("norm.weight") != std::string::npos;
    TinyTensor tensor{.shape = shape, .values = normal(random, product(shape), norm ? 0.4F : 0.3F, norm ? 1.0F : 0.0F), .dtype = dtype};
    tensor.sparse = density < 1.0 && shape.size() == 2 && name.find("layers.") != std::string::npos;
    for (float& value : tensor.values) {
      if (tensor.sparse && random.uniform() >= density) value = 0.0F;
    }
    model.tensors[name] = std::move(tensor);
  }
  return model;
}

// The files of a model directory in memory; opening it again and again is cheap.
inline Files write_checkpoint(const TinyModel& model) {
  HostAllocator host;
  TestCheckpoint checkpoint;
  checkpoint.side_files["config.json"] = model.config.dump();
  checkpoint.manifest["architecture"] = model.config["architectures"][0];
  for (const auto& [name, tensor] : model.tensors) {
    const std::int64_t cols = tensor.shape.back();
    OwnedTensor matrix(host, tensor.dtype, {product(tensor.shape) / cols, cols});
    for (std::int64_t i = 0; i < product(tensor.shape); ++i) {
      store(matrix.view.select(0, i / cols), i % cols, tensor.values[static_cast<std::size_t>(i)]);
    }
    if (tensor.sparse) {
      checkpoint.add_sparse("model.safetensors", name, sparse_from_dense(matrix.view, host).view);
    } else {
      checkpoint.add_dense("model.safetensors", name, tensor.shape.size() == 1 ? matrix.view.select(0, 0) : matrix.view);
    }
  }
  return checkpoint.build();
}

inline Checkpoint open_checkpoint(const Files& files) {
  return Checkpoint::open(std::make_unique<MemoryDirectory>(files), "tiny", Verify::full);
}

// Tokens [begin, end) of sequence `sequence`, whose earlier ones are in the cache.
struct Piece {
  int sequence = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

// One rank's model with its cache. Sequences hold up to 32 tokens; their blocks lie scattered.
class Session {
 public:
  static constexpr std::int64_t kBlockSize = 4;
  static constexpr std::int64_t kBlocksPerSequence = 8;
  static constexpr std::int64_t kSequences = 4;

  Session(const Checkpoint& checkpoint, Ops& ops, Communicator& comm, const LoadOptions& options = {})
      : ops_(ops), comm_(comm), pool_(1), model_(load_model(checkpoint, ops, comm, pool_, options)) {
    KvCacheShape shape = model_->kv_shape();
    shape.block_size = kBlockSize;
    shape.num_blocks = kBlocksPerSequence * kSequences;
    kv_ = std::make_unique<KvCache>(ops.allocator(), shape);
  }

  // Logits of every token of the pieces, row by row.
  std::vector<float> run(const std::vector<std::vector<std::int32_t>>& sequences, const std::vector<Piece>& pieces,
                         LinearObserver* observer = nullptr) {
    std::vector<std::int32_t> ids, positions, slots, starts{0}, lengths, table, rows;
    std::int64_t longest = 0;
    for (const Piece& piece : pieces) {
      for (std::int64_t i = piece.begin; i < piece.end; ++i) {
        ids.push_back(sequences[static_cast<std::size_t>(piece.sequence)][static_cast<std::size_t>(i)]);
        positions.push_back(static_cast<std::int32_t>(i));
        slots.push_back(static_cast<std::int32_t>(block(piece.sequence, i / kBlockSize) * kBlockSize + i % kBlockSize));
        rows.push_back(static_cast<std::int32_t>(rows.size()));
      }
      starts.push_back(static_cast<std::int32_t>(ids.size()));
      lengths.push_back(static_cast<std::int32_t>(piece.end));
      for (std::int64_t b = 0; b < kBlocksPerSequence; ++b) table.push_back(block(piece.sequence, b));
      longest = std::max(longest, piece.end);
    }
    const auto n = static_cast<std::int64_t>(ids.size());
    const auto num_seqs = static_cast<std::int64_t>(pieces.size());
    const IntTensor d_ids(ops_, ids), d_positions(ops_, positions), d_slots(ops_, slots), d_starts(ops_, starts), d_lengths(ops_, lengths),
        d_table(ops_, table), d_rows(ops_, rows);
    Batch batch;
    batch.num_tokens = batch.num_logits = batch.max_query_len = n;
    batch.num_seqs = num_seqs;
    batch.max_context_len = longest;
    batch.token_ids = d_ids;
    batch.positions = d_positions;
    batch.slots = d_slots;
    batch.query_start = d_starts;
    batch.context_len = d_lengths;
    batch.block_table = d_table.matrix(num_seqs);
    batch.logit_rows = d_rows;
    Arena arena(ops_.allocator(), model_->arena_bytes(n, n));
    ExecContext ctx{.ops = ops_, .comm = comm_, .arena = arena, .observer = observer};
    const OwnedTensor logits(ops_.allocator(), DType::f32, {n, model_->config().vocab_size});
    model_->forward(ctx, *kv_, batch, logits.view);
    HostAllocator host;
    const OwnedTensor on_host(host, DType::f32, {n, model_->config().vocab_size});
    ops_.download(on_host.view, logits.view);
    arena_used_ = {arena.peak(), arena.used(), arena.capacity()};
    return to_floats(on_host.view);
  }

  struct ArenaUse {
    std::size_t peak = 0, used_after = 0, capacity = 0;
  };
  const ArenaUse& arena_use() const { return arena_used_; }  // of the last run
  const Model& model() const { return *model_; }

 private:
  static std::int32_t block(int sequence, std::int64_t index) {
    return static_cast<std::int32_t>((sequence * kBlocksPerSequence + index) * 13 % (kBlocksPerSequence * kSequences));
  }

  Ops& ops_;
  Communicator& comm_;
  ThreadPool pool_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<KvCache> kv_;
  ArenaUse arena_used_;
};

inline std::vector<std::int32_t> random_tokens(std::int64_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<std::int32_t>(random.below(48)));
  return tokens;
}

}  // namespace gossamer::testing
