// A Llama-shaped model with random sparse weights, to time a step of it without a checkpoint.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "cpu/cpu_ops.h"

namespace gossamer::bench {

struct Shape {
  std::int64_t num_layers, hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim, vocab_size;
};

inline constexpr Shape kSmolLm2{30, 576, 1536, 9, 3, 64, 49152};

// Normal weights of which a share is zeroed at random. sparsity < 0: packed dense.
inline std::unique_ptr<PackedWeight> random_weight(Ops& ops, std::int64_t m, std::int64_t k, DType dtype, double sparsity,
                                                   std::uint32_t seed) {
  HostAllocator allocator;
  OwnedTensor dense(allocator, dtype, {m, k});
  std::minstd_rand random(seed);
  const auto threshold = static_cast<std::uint32_t>((sparsity < 0 ? 0 : sparsity) * static_cast<double>(std::minstd_rand::max()));
  visit_floating(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* values = dense.view.data<T>();
    for (std::int64_t i = 0; i < m * k; ++i) {
      const float value = static_cast<float>(random()) / static_cast<float>(std::minstd_rand::max()) - 0.5F;
      values[i] = from_float<T>(random() < threshold ? 0.0F : value * 0.1F + 0.01F);
    }
  });
  if (sparsity < 0) return ops.pack(dense.view);
  return ops.pack(sparse_from_dense(dense.view, allocator).view);
}

struct Layer {
  std::unique_ptr<PackedWeight> qkv, out, gate_up, down;
  OwnedTensor keys, values;
};

// num_seqs sequences, each with `context` tokens in its cache, `context` included in the step's own query_len tokens.
class StepBench {
 public:
  StepBench(Ops& ops, const Shape& shape, DType dtype, double sparsity, std::int64_t num_seqs, std::int64_t query_len,
            std::int64_t context);
  void run();  // one forward pass and the head of each sequence's last token
  std::int64_t weight_bytes() const { return weight_bytes_; }
  double attention_seconds = 0, linear_seconds = 0, head_seconds = 0, other_seconds = 0;

 private:
  void layer(Layer& layer);

  Ops& ops_;
  Shape shape_;
  HostAllocator allocator_;
  std::vector<Layer> layers_;
  std::unique_ptr<PackedWeight> head_;
  std::int64_t weight_bytes_ = 0;
  OwnedTensor norm_, cos_, sin_, hidden_, normed_, qkv_, attended_, gate_up_, gated_, last_, logits_;
  OwnedTensor token_ids_, positions_, slots_, query_start_, context_len_, block_table_, logit_rows_;
  Batch batch_;
};

}  // namespace gossamer::bench
