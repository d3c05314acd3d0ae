// The decoder that Llama, Mistral and Qwen share: pre-norm layers of rotary attention and a gated MLP. What differs between the families
// lies in how they build the layers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/blocks.h"
#include "model/families/family.h"
#include "model/weight_loader.h"

namespace gossamer {

struct RotaryLayer {
  RmsNorm attention_norm;
  Attention attention;
  RmsNorm mlp_norm;
  GatedMlp mlp;
};

class RotaryDecoder final : public Model {
 public:
  RotaryDecoder(const ModelConfig& config, Vocabulary vocabulary, RopeTables rope, std::vector<RotaryLayer> layers, RmsNorm norm,
                const WeightLoader& loader);

  const ModelConfig& config() const override { return config_; }
  WeightStats stats() const override { return stats_; }
  std::size_t arena_bytes(std::int64_t max_tokens, std::int64_t max_logits) const override;
  KvCacheShape kv_shape() const override;
  void embed(ExecContext& ctx, const Batch& batch, const Tensor& hidden) const override;
  void attention(ExecContext& ctx, std::int64_t i, const KvCache& kv, const Batch& batch, const Tensor& hidden) const override;
  void mlp(ExecContext& ctx, std::int64_t i, const Tensor& hidden) const override;
  void head(ExecContext& ctx, const Tensor& hidden, const Tensor& logits) const override;

 private:
  ModelConfig config_;
  WeightStats stats_;
  DType dtype_;  // of activations
  Vocabulary vocabulary_;
  RopeTables rope_;
  std::vector<RotaryLayer> layers_;
  RmsNorm norm_;
};

// Which projections of an attention block have a bias.
struct AttentionBias {
  bool qkv = false;
  bool out = false;
};

// Names and shapes that the families share: "<prefix>.self_attn.q_proj", "<prefix>.mlp.gate_proj", "<prefix>.input_layernorm", ...
Attention build_attention(WeightLoader& loader, const ModelConfig& config, std::int64_t layer, AttentionBias bias);
GatedMlp build_gated_mlp(WeightLoader& loader, const ModelConfig& config, std::int64_t layer, bool bias);
RmsNorm build_rms_norm(WeightLoader& loader, const ModelConfig& config, const std::string& module, std::int64_t size);
std::string layer_prefix(std::int64_t layer);  // "model.layers.3"

// The whole model from its layers.
std::unique_ptr<Model> build_rotary_decoder(WeightLoader& loader, const ModelConfig& config,
                                            RotaryLayer (*build_layer)(WeightLoader&, const ModelConfig&, std::int64_t layer));

}  // namespace gossamer
