#include "cpu/reference_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace gossamer {
namespace {

float* head_of(const Tensor& x, std::int64_t token, std::int64_t head) {
  return x.data<float>() + token * x.stride(0) + head * x.stride(1);
}

// x_i, x_{i+half} = x_i cos - x_{i+half} sin, x_{i+half} cos + x_i sin
void rotate(float* x, const float* cos, const float* sin, std::int64_t half) {
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

void rotate_heads(const Tensor& x, const RopeTable& rope, const std::int32_t* positions) {
  for (std::int64_t token = 0; token < x.size(0); ++token) {
    const std::int64_t position = positions[token];
    check(position >= 0 && position < rope.cos.size(0), "rope: a position lies outside the table");
    for (std::int64_t head = 0; head < x.size(1); ++head)
      rotate(head_of(x, token, head), rope.cos.row<const float>(position), rope.sin.row<const float>(position), rope.cos.size(1));
  }
}

// Index of the first element of (slot, head) in a [num_blocks, num_kv_heads, block_size, head_dim] pool.
std::int64_t kv_offset(const Tensor& pool, std::int64_t block, std::int64_t head, std::int64_t offset) {
  check(block >= 0 && block < pool.size(0), "a KV block lies outside the pool");
  return ((block * pool.size(1) + head) * pool.size(2) + offset) * pool.size(3);
}

template <typename T>
void write_to_slots(const Tensor& pool, const Tensor& x, const std::int32_t* slots) {
  const std::int64_t block_size = pool.size(2);
  for (std::int64_t token = 0; token < x.size(0); ++token) {
    const std::int64_t slot = slots[token];
    if (slot < 0) continue;
    for (std::int64_t head = 0; head < x.size(1); ++head) {
      const float* from = head_of(x, token, head);
      T* to = pool.data<T>() + kv_offset(pool, slot / block_size, head, slot % block_size);
      std::transform(from, from + x.size(2), to, [](float value) { return from_float<T>(value); });
    }
  }
}

// One query's view of its sequence's cache, for one KV head.
template <typename T>
struct CachedHead {
  const KvLayer& kv;
  const std::int32_t* blocks;
  std::int64_t head;

  const T* at(const Tensor& pool, std::int64_t token) const {
    const std::int64_t block_size = pool.size(2);
    return pool.data<const T>() + kv_offset(pool, blocks[token / block_size], head, token % block_size);
  }
  const T* key(std::int64_t token) const { return at(kv.keys, token); }
  const T* value(std::int64_t token) const { return at(kv.values, token); }
};

// out = softmax(scale q·K) V over tokens [begin, end); zeros where there are none.
template <typename T>
void attend(float* out, const float* q, const CachedHead<T>& cache, std::int64_t begin, std::int64_t end, float scale,
            std::vector<double>& weights) {
  const std::int64_t head_dim = cache.kv.keys.size(3);
  weights.clear();
  double largest = -std::numeric_limits<double>::infinity();
  for (std::int64_t token = begin; token < end; ++token) {
    const T* key = cache.key(token);
    double dot = 0;
    for (std::int64_t d = 0; d < head_dim; ++d) dot += double{q[d]} * to_float(key[d]);
    weights.push_back(dot * scale);
    largest = std::max(largest, weights.back());
  }
  double total = 0;
  for (double& weight : weights) total += weight = std::exp(weight - largest);
  for (std::int64_t d = 0; d < head_dim; ++d) {
    double sum = 0;
    for (std::int64_t token = begin; token < end; ++token)
      sum += weights[static_cast<std::size_t>(token - begin)] * to_float(cache.value(token)[d]);
    out[d] = begin < end ? static_cast<float>(sum / total) : 0.0F;
  }
}

}  // namespace

void reference_rope_and_write_kv(const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope, const KvLayer& kv,
                                 const Batch& batch) {
  if (rope != nullptr) {
    rotate_heads(q, *rope, batch.positions.data<const std::int32_t>());
    rotate_heads(k, *rope, batch.positions.data<const std::int32_t>());
  }
  visit_floating(kv.keys.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    write_to_slots<T>(kv.keys, k, batch.slots.data<const std::int32_t>());
    write_to_slots<T>(kv.values, v, batch.slots.data<const std::int32_t>());
  });
}

void reference_attention(const Tensor& out, const Tensor& q, const KvLayer& kv, const Batch& batch, const AttentionParams& params) {
  const std::int32_t* query_start = batch.query_start.data<const std::int32_t>();
  const std::int32_t* context_len = batch.context_len.data<const std::int32_t>();
  const std::int64_t heads_per_kv_head = q.size(1) / kv.keys.size(1);
  std::vector<double> weights;
  visit_floating(kv.keys.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (std::int64_t seq = 0; seq < batch.num_seqs; ++seq) {
      check(query_start[seq] <= query_start[seq + 1] && query_start[seq + 1] <= q.size(0), "query_start does not fit the tokens");
      check(context_len[seq] <= batch.block_table.size(1) * kv.keys.size(2), "context_len does not fit the block table");
      for (std::int64_t token = query_start[seq]; token < query_start[seq + 1]; ++token) {
        // The step's tokens are the last of the context; a token sees itself and what came before it.
        const std::int64_t end = context_len[seq] - (query_start[seq + 1] - token) + 1;
        const std::int64_t begin = params.sliding_window == 0 ? 0 : std::max<std::int64_t>(0, end - params.sliding_window);
        for (std::int64_t head = 0; head < q.size(1); ++head) {
          const CachedHead<T> cache{kv, batch.block_table.row<const std::int32_t>(seq), head / heads_per_kv_head};
          attend(head_of(out, token, head), head_of(q, token, head), cache, begin, end, params.scale, weights);
        }
      }
    }
  });
}

}  // namespace gossamer
