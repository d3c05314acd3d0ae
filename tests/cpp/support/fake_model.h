// FakeModel: a model small enough to reason about. The logits of a token are a hash of all token ids before it, which the model reads
// back through the paged KV cache: one id in a wrong slot, block or order changes every token after it.
#pragma once

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "model/model.h"

namespace gossamer::testing {

class FakeModel final : public Model {
 public:
  static constexpr std::int64_t kVocab = 97;
  static constexpr std::int32_t kEos = 96;
  static constexpr std::int32_t kPoison = 95;  // a context that holds it has logits that are not finite

  FakeModel() {
    config_.architecture = "FakeForCausalLM";
    config_.vocab_size = kVocab;
    config_.hidden_size = 4;
    config_.num_layers = 1;
    config_.num_heads = 1;
    config_.num_kv_heads = 1;
    config_.head_dim = 2;
    config_.max_positions = 4096;
    config_.eos_token_ids = {kEos};
  }

  // Called at the start of every forward pass with its number, from 1; may throw or block.
  std::function<void(std::int64_t)> on_forward;

  const ModelConfig& config() const override { return config_; }
  WeightStats stats() const override { return {}; }
  std::size_t arena_bytes(std::int64_t max_tokens, std::int64_t max_logits) const override {
    return static_cast<std::size_t>(max_tokens + max_logits) * 4 * sizeof(float) + 4 * kAlignment;
  }
  KvCacheShape kv_shape() const override {
    KvCacheShape shape;
    shape.num_layers = 1;
    shape.num_kv_heads = 1;
    shape.head_dim = 2;
    return shape;
  }

  void embed(ExecContext&, const Batch&, const Tensor&) const override {
    if (on_forward) on_forward(++num_forwards_);
  }

  void attention(ExecContext& ctx, std::int64_t, const KvCache& kv, const Batch& batch, const Tensor& hidden) const override {
    write_ids(kv, batch);
    if (ctx.observer != nullptr) observe(ctx, batch);
    for (std::int64_t s = 0; s < batch.num_seqs; ++s) {
      check_lengths(batch, s);
      for (std::int64_t t = at(batch.query_start, s); t < at(batch.query_start, s + 1); ++t) {
        const std::uint64_t hash = hash_context(kv, batch, s, at(batch.positions, t));
        for (int part = 0; part < 4; ++part) hidden.row<float>(t)[part] = static_cast<float>(hash >> (16 * part) & 0xFFFF);
        if (hash == 0) hidden.row<float>(t)[0] = std::numeric_limits<float>::quiet_NaN();
      }
    }
  }

  void mlp(ExecContext&, std::int64_t, const Tensor&) const override {}

  void head(ExecContext&, const Tensor& hidden, const Tensor& logits) const override {
    for (std::int64_t r = 0; r < hidden.size(0); ++r) {
      const float* row = hidden.row<const float>(r);
      std::uint64_t hash = 0;
      for (int part = 0; part < 4; ++part) hash |= static_cast<std::uint64_t>(std::isnan(row[0]) ? 0.0F : row[part]) << (16 * part);
      for (std::int64_t v = 0; v < kVocab; ++v) {
        const auto bits = static_cast<double>(mix(hash ^ (static_cast<std::uint64_t>(v) << 32)) >> 40);
        logits.row<float>(r)[v] = hash == 0 ? row[0] : static_cast<float>(bits / (1 << 24) * 8.0 - 4.0);
      }
      if (hash != 0) logits.row<float>(r)[kPoison] = -1000.0F;  // comes from prompts only
    }
  }

 private:
  static std::int64_t at(const Tensor& tensor, std::int64_t i) { return tensor.data<const std::int32_t>()[i]; }

  static std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 31)) * 0x7FB5D329728EA185ULL;
    x = (x ^ (x >> 27)) * 0x81DADEF4BC2DD44DULL;
    return x ^ (x >> 33);
  }

  static void check_lengths(const Batch& batch, std::int64_t s) {
    const std::int64_t begin = at(batch.query_start, s);
    const std::int64_t end = at(batch.query_start, s + 1);
    check(begin < end && end - begin <= batch.max_query_len, "a sequence's query length is out of bounds");
    check(at(batch.context_len, s) == at(batch.positions, end - 1) + 1, "context_len is not the last position + 1");
    check(at(batch.context_len, s) <= batch.max_context_len, "context_len is above max_context_len");
  }

  // The two numbers of a slot: the token's id and its position.
  static float* slot(const KvCache& kv, std::int64_t index) {
    const std::int64_t block_size = kv.shape().block_size;
    return kv.layer(0).keys.select(0, index / block_size).select(0, 0).row<float>(index % block_size);
  }

  static void write_ids(const KvCache& kv, const Batch& batch) {
    for (std::int64_t t = 0; t < batch.num_tokens; ++t) {
      float* place = slot(kv, at(batch.slots, t));
      place[0] = static_cast<float>(at(batch.token_ids, t));
      place[1] = static_cast<float>(at(batch.positions, t));
    }
  }

  static std::uint64_t hash_context(const KvCache& kv, const Batch& batch, std::int64_t s, std::int64_t last) {
    const std::int64_t block_size = kv.shape().block_size;
    std::uint64_t hash = 0x9E3779B97F4A7C15ULL;
    bool is_poisoned = false;
    for (std::int64_t j = 0; j <= last; ++j) {
      const std::int64_t block = batch.block_table.row<const std::int32_t>(s)[j / block_size];
      const float* place = slot(kv, block * block_size + j % block_size);
      check(place[1] == static_cast<float>(j), "FakeModel read a slot that holds another position");
      is_poisoned |= place[0] == static_cast<float>(kPoison);
      hash = mix(hash + static_cast<std::uint64_t>(place[0]) + 1);
    }
    return is_poisoned ? 0 : hash;
  }

  // A linear whose input is the token's id and 1.
  static void observe(ExecContext& ctx, const Batch& batch) {
    static const std::vector<std::string> names = {"layers.0.q", "layers.0.k"};
    std::vector<float> input;
    for (std::int64_t t = 0; t < batch.num_tokens; ++t) {
      input.push_back(static_cast<float>(at(batch.token_ids, t)));
      input.push_back(1.0F);
    }
    ctx.observer->observe(names, ctx.ops, Tensor(input.data(), DType::f32, {batch.num_tokens, 2}));
  }

  ModelConfig config_;
  mutable std::atomic<std::int64_t> num_forwards_{0};
};

}  // namespace gossamer::testing
