#include "cpu_model.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace gossamer::bench {

namespace {

constexpr std::int64_t kBlockSize = 16;

void fill(const Tensor& t, float scale) {
  std::minstd_rand random(7);
  float* values = t.data<float>();
  for (std::int64_t i = 0; i < t.numel(); ++i)
    values[i] = scale * (static_cast<float>(random()) / static_cast<float>(std::minstd_rand::max()) - 0.5F);
}

// Adds the time of a scope to a counter.
class Timed {
 public:
  explicit Timed(double& seconds) : seconds_(seconds), start_(std::chrono::steady_clock::now()) {}
  ~Timed() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace

StepBench::StepBench(Ops& ops, const Shape& shape, DType dtype, double sparsity, std::int64_t num_seqs, std::int64_t query_len,
                     std::int64_t context)
    : ops_(ops), shape_(shape) {
  const std::int64_t n = num_seqs * query_len;
  const std::int64_t h = shape.hidden_size;
  const std::int64_t attention_size = shape.num_heads * shape.head_dim;
  const std::int64_t qkv_size = attention_size + 2 * shape.num_kv_heads * shape.head_dim;
  const std::int64_t blocks_per_seq = (context + kBlockSize - 1) / kBlockSize;
  for (std::int64_t i = 0; i < shape.num_layers; ++i) {
    const auto seed = static_cast<std::uint32_t>(10 * i + 1);
    Layer layer;
    layer.qkv = random_weight(ops, qkv_size, h, dtype, sparsity, seed);
    layer.out = random_weight(ops, h, attention_size, dtype, sparsity, seed + 1);
    layer.gate_up = random_weight(ops, 2 * shape.intermediate_size, h, dtype, sparsity, seed + 2);
    layer.down = random_weight(ops, h, shape.intermediate_size, dtype, sparsity, seed + 3);
    layer.keys = OwnedTensor(allocator_, DType::f32, {num_seqs * blocks_per_seq, shape.num_kv_heads, kBlockSize, shape.head_dim});
    layer.values = OwnedTensor(allocator_, DType::f32, {num_seqs * blocks_per_seq, shape.num_kv_heads, kBlockSize, shape.head_dim});
    fill(layer.keys.view, 1.0F);
    fill(layer.values.view, 1.0F);
    weight_bytes_ += layer.qkv->nbytes() + layer.out->nbytes() + layer.gate_up->nbytes() + layer.down->nbytes();
    layers_.push_back(std::move(layer));
  }
  head_ = random_weight(ops, shape.vocab_size, h, dtype, -1, 3);
  weight_bytes_ += head_->nbytes();
  const auto floats = [&](std::int64_t rows, std::int64_t cols) {
    OwnedTensor t(allocator_, DType::f32, {rows, cols});
    fill(t.view, 1.0F);
    return t;
  };
  norm_ = OwnedTensor(allocator_, DType::f32, {h});
  std::fill_n(norm_.view.data<float>(), h, 1.0F);
  cos_ = floats(context, shape.head_dim / 2);
  sin_ = floats(context, shape.head_dim / 2);
  hidden_ = floats(n, h);
  normed_ = floats(n, h);
  qkv_ = floats(n, qkv_size);
  attended_ = floats(n, attention_size);
  gate_up_ = floats(n, 2 * shape.intermediate_size);
  gated_ = floats(n, shape.intermediate_size);
  last_ = floats(num_seqs, h);
  logits_ = floats(num_seqs, shape.vocab_size);
  const auto integers = [&](std::int64_t count, auto value) {
    OwnedTensor t(allocator_, DType::i32, {count});
    for (std::int64_t i = 0; i < count; ++i) t.view.data<std::int32_t>()[i] = static_cast<std::int32_t>(value(i));
    return t;
  };
  token_ids_ = integers(n, [&](std::int64_t i) { return i * 7 % shape.vocab_size; });
  positions_ = integers(n, [&](std::int64_t i) { return context - query_len + i % query_len; });
  slots_ = integers(n, [&](std::int64_t i) { return i / query_len * blocks_per_seq * kBlockSize + context - query_len + i % query_len; });
  query_start_ = integers(num_seqs + 1, [&](std::int64_t i) { return i * query_len; });
  context_len_ = integers(num_seqs, [&](std::int64_t) { return context; });
  block_table_ = integers(num_seqs * blocks_per_seq, [](std::int64_t i) { return i; });
  logit_rows_ = integers(num_seqs, [&](std::int64_t i) { return (i + 1) * query_len - 1; });
  batch_ = {.num_tokens = n,
            .num_seqs = num_seqs,
            .num_logits = num_seqs,
            .max_query_len = query_len,
            .max_context_len = context,
            .token_ids = token_ids_.view,
            .positions = positions_.view,
            .slots = slots_.view,
            .query_start = query_start_.view,
            .context_len = context_len_.view,
            .block_table = block_table_.view.reshape({num_seqs, blocks_per_seq}),
            .logit_rows = logit_rows_.view};
}

void StepBench::layer(Layer& layer) {
  const std::int64_t d = shape_.head_dim;
  const std::int64_t q_end = shape_.num_heads * d;
  const std::int64_t k_end = q_end + shape_.num_kv_heads * d;
  const Tensor q = qkv_.view.slice(1, 0, q_end).split_last(shape_.num_heads, d);
  const Tensor k = qkv_.view.slice(1, q_end, k_end).split_last(shape_.num_kv_heads, d);
  const Tensor v = qkv_.view.slice(1, k_end, qkv_.view.size(1)).split_last(shape_.num_kv_heads, d);
  const RopeTable rope{cos_.view, sin_.view};
  const KvLayer kv{layer.keys.view, layer.values.view};
  {
    const Timed timed(other_seconds);
    ops_.rms_norm(normed_.view, hidden_.view, norm_.view, 1e-5F);
  }
  {
    const Timed timed(linear_seconds);
    ops_.linear(qkv_.view, normed_.view, *layer.qkv);
  }
  {
    const Timed timed(other_seconds);
    ops_.rope_and_write_kv(q, k, v, &rope, kv, batch_);
  }
  {
    const Timed timed(attention_seconds);
    ops_.attention(attended_.view.split_last(shape_.num_heads, d), q, kv, batch_, {.scale = 0.125F, .sliding_window = 0});
  }
  {
    const Timed timed(linear_seconds);
    ops_.linear(hidden_.view, attended_.view, *layer.out, {.bias = {}, .activation = Activation::none, .residual = hidden_.view});
  }
  {
    const Timed timed(other_seconds);
    ops_.rms_norm(normed_.view, hidden_.view, norm_.view, 1e-5F);
  }
  {
    const Timed timed(linear_seconds);
    ops_.linear(gate_up_.view, normed_.view, *layer.gate_up);
  }
  {
    const Timed timed(other_seconds);
    ops_.gated_activation(gated_.view, gate_up_.view, Activation::silu);
  }
  {
    const Timed timed(linear_seconds);
    ops_.linear(hidden_.view, gated_.view, *layer.down, {.bias = {}, .activation = Activation::none, .residual = hidden_.view});
  }
}

void StepBench::run() {
  ops_.embedding(hidden_.view, head_->table(), token_ids_.view);
  for (Layer& l : layers_) layer(l);
  const Timed timed(head_seconds);
  ops_.gather_rows(last_.view, hidden_.view, logit_rows_.view);
  ops_.rms_norm(last_.view, last_.view, norm_.view, 1e-5F);
  ops_.linear(logits_.view, last_.view, *head_);
}

}  // namespace gossamer::bench
