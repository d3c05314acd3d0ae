// LayerStream: a model run one layer at a time over hidden states that the caller keeps, so that calibration, pruning and comparisons need
// memory for one layer and not for the model. Sequences are whole: each call sees all tokens of the sequences it is given.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/memory.h"
#include "core/thread_pool.h"
#include "engine/make_ops.h"
#include "kv/kv_cache.h"
#include "model/model.h"

namespace gossamer {

// The input of one product. Several logical weights may share it.
struct CapturedInput {
  std::vector<std::string> weight_names;
  OwnedTensor values;  // [n, k]: f32 on the host, or activations on the device
};

// What run_layer is to keep of the inputs of a layer's products.
struct Capture {
  std::set<std::string> names;  // only products with one of these weights; empty: all
  bool on_device = false;       // values stay where they are, in memory of the stream's device, and must go before the stream
  std::vector<CapturedInput> inputs;
};

// Which of a layer's two halves run (Model::attention, Model::mlp).
enum class LayerPart : std::uint8_t { whole, attention, mlp };

class LayerStream {
 public:
  // Opens the model; loads no weight yet. A call takes at most max_tokens tokens, in at most 256 sequences of at most max_length.
  LayerStream(const std::string& path, const DeviceOptions& device, std::int64_t max_tokens, std::int64_t max_length);
  ~LayerStream();
  LayerStream(const LayerStream&) = delete;
  LayerStream& operator=(const LayerStream&) = delete;

  const ModelConfig& config() const { return config_; }
  Device device() const { return ops_->device(); }
  std::int64_t max_tokens() const { return max_tokens_; }

  // Loads what embeds, or one layer, or the final norm and the head; what was loaded before goes. replacements: weight name → host matrix.
  void load_embedding();
  void load_layer(std::int64_t layer, const std::map<std::string, Tensor>& replacements = {});
  void load_head();

  // hidden: host f32 [n, hidden_size], n = all tokens.
  void embed(std::span<const std::vector<std::int32_t>> sequences, const Tensor& hidden);  // out
  // hidden in place. capture: gets inputs of the products that run; null = none. Complete on return.
  void run_layer(std::span<const std::int64_t> lengths, const Tensor& hidden, Capture* capture = nullptr,
                 LayerPart part = LayerPart::whole);
  void head(const Tensor& hidden, const Tensor& logits);  // host f32 [r, hidden_size] → f32 [r, vocab_size] out, any rows

 private:
  struct Loaded;
  void load(std::function<bool(const std::string&)> select, const std::map<std::string, Tensor>& replacements, std::int64_t layer);
  Loaded& loaded(std::int64_t layer);
  Batch make_batch(std::span<const std::int64_t> lengths, std::span<const std::int32_t> token_ids = {});
  Tensor to_device(const Tensor& hidden);
  void to_host(const Tensor& out, const Tensor& device);
  void check_tokens(std::int64_t count, std::int64_t longest) const;

  HostAllocator host_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Communicator> comm_;
  ThreadPool pool_;
  Checkpoint checkpoint_;
  ModelConfig config_;
  std::int64_t max_tokens_;
  std::int64_t max_length_;
  std::vector<std::int32_t> inputs_;  // the batch's index tensors on the host
  OwnedTensor device_inputs_;         // i32, the same on the device
  OwnedTensor every_row_;             // i32 [max_tokens], 0, 1, 2, ... on the device
  OwnedTensor hidden_;                // activations [max_tokens, hidden_size] on the device
  OwnedTensor staging_;               // the same on the host
  std::unique_ptr<Loaded> loaded_;
};

}  // namespace gossamer
