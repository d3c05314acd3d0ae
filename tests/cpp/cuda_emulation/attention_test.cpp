// Attention kernels, run on the host, against formulas in double: prompts on tensor cores, and decode steps that rotate and write their own
// tokens against the kernels that they stand for.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "emulation.h"
// after it
#include "kernels/attention_decode.cuh"
#include "kernels/attention_prefill.cuh"
#include "kernels/rope_kv.cuh"
#include "support/random.h"

namespace gossamer::cuda {
namespace {

using gossamer::testing::Random;

constexpr int kBlockSize = 16, kBlockShift = 4;
constexpr float kScale = 0.3F, kScaleLog2 = kScale * 1.44269504F;

template <class T>
std::vector<T> random_values(Random& random, std::size_t count) {
  std::vector<T> values(count);
  for (T& value : values) value = from_float<T>(3.0F * random.value());
  return values;
}

// A paged cache whose unused slots hold NaN, and what it holds by sequence and position.
template <class T>
struct Cache {
  Cache(Random& random, const std::vector<int>& contexts, int num_kv_heads, int head_dim)
      : kv_heads(num_kv_heads), dim(head_dim), table_width(1) {
    int num_blocks = 2;
    for (const int context : contexts) {
      const int blocks = (context + kBlockSize - 1) / kBlockSize;
      num_blocks += blocks;
      table_width = std::max(table_width, blocks);
    }
    keys.assign(static_cast<std::size_t>(num_blocks) * static_cast<std::size_t>(kv_heads * kBlockSize * dim), from_float<T>(NAN));
    values = keys;
    table.assign(contexts.size() * static_cast<std::size_t>(table_width), 0);
    int next = num_blocks - 1;  // backwards: a block's place is no sequence's order
    for (std::size_t s = 0; s < contexts.size(); ++s) {
      for (int t = 0; t < contexts[s]; ++t) {
        if (t % kBlockSize == 0) table[s * static_cast<std::size_t>(table_width) + static_cast<std::size_t>(t / kBlockSize)] = next--;
        for (int head = 0; head < kv_heads; ++head) {
          for (int d = 0; d < dim; ++d) {
            keys[at(s, t, head, d)] = from_float<T>(3.0F * random.value());
            values[at(s, t, head, d)] = from_float<T>(3.0F * random.value());
          }
        }
      }
    }
  }
  std::int32_t slot(std::size_t s, int t) const {
    return table[s * static_cast<std::size_t>(table_width) + static_cast<std::size_t>(t / kBlockSize)] * kBlockSize + t % kBlockSize;
  }
  std::size_t at(std::size_t s, int t, int head, int d) const {
    const std::int32_t index = slot(s, t);
    return static_cast<std::size_t>(((index / kBlockSize * kv_heads + head) * kBlockSize + index % kBlockSize) * dim + d);
  }

  int kv_heads, dim, table_width;
  std::vector<T> keys, values;
  std::vector<std::int32_t> table;
};

struct Sizes {
  int heads, kv_heads, dim, window;
};

template <class T>
PagedAttentionParams params_of(const Sizes& c, Cache<T>& cache, const std::vector<std::int32_t>& starts,
                               const std::vector<std::int32_t>& contexts) {
  PagedAttentionParams p;
  p.keys = cache.keys.data();
  p.values = cache.values.data();
  p.query_start = starts.data();
  p.context_len = contexts.data();
  p.block_table = cache.table.data();
  p.table_stride = cache.table_width;
  p.out_token = c.heads * c.dim;
  p.q_head = p.out_head = c.dim;
  p.n = starts.back();
  p.num_seqs = static_cast<std::int32_t>(contexts.size());
  p.num_heads = c.heads;
  p.num_kv_heads = c.kv_heads;
  p.head_dim = c.dim;
  p.block_size = kBlockSize;
  p.window = c.window;
  p.scale_log2 = kScaleLog2;
  return p;
}

// softmax(scale q·K) V over what the token at `position` sees.
template <class T>
std::vector<double> exact(const Sizes& c, const Cache<T>& cache, const T* q, std::size_t s, int position, int head) {
  const int kv_head = head / (c.heads / c.kv_heads), from = c.window > 0 ? std::max(0, position + 1 - c.window) : 0;
  std::vector<double> weights, out(static_cast<std::size_t>(c.dim), 0.0);
  double most = -HUGE_VAL, total = 0;
  for (int t = from; t <= position; ++t) {
    double score = 0;
    for (int d = 0; d < c.dim; ++d) score += double{kScale} * to_float(q[d]) * to_float(cache.keys[cache.at(s, t, kv_head, d)]);
    weights.push_back(score);
    most = std::max(most, score);
  }
  for (double& weight : weights) total += weight = std::exp(weight - most);
  for (int t = from; t <= position; ++t) {
    for (int d = 0; d < c.dim; ++d) {
      out[static_cast<std::size_t>(d)] +=
          weights[static_cast<std::size_t>(t - from)] / total * to_float(cache.values[cache.at(s, t, kv_head, d)]);
    }
  }
  return out;
}

// sequences: context, queries. The first `skipped` have a kernel of their own.
template <class T>
void check_prefill(const Sizes& c, const std::vector<std::pair<int, int>>& sequences, double tolerance, int skipped = 0) {
  Random random(static_cast<unsigned>(c.dim + c.window));
  std::vector<std::int32_t> starts{0}, contexts;
  for (const auto& [context, queries] : sequences) {
    starts.push_back(starts.back() + queries);
    contexts.push_back(context);
  }
  Cache<T> cache(random, contexts, c.kv_heads, c.dim);
  const auto n = static_cast<std::size_t>(starts.back());
  const auto row = static_cast<std::size_t>(c.heads * c.dim + 8);  // rows of q lie apart
  const std::vector<T> q = random_values<T>(random, n * row);
  std::vector<T> out(n * static_cast<std::size_t>(c.heads * c.dim), from_float<T>(NAN));
  PagedAttentionParams p = params_of(c, cache, starts, contexts);
  p.q = q.data();
  p.q_token = static_cast<std::int64_t>(row);
  p.out = out.data();
  p.n -= skipped;
  p.num_seqs -= skipped;
  p.query_start += skipped;
  p.context_len += skipped;
  p.block_table += skipped * p.table_stride;
  const emulation::Index grid{static_cast<unsigned>(c.heads), static_cast<unsigned>(p.n / kPrefillQueries + p.num_seqs), 1};
  emulation::launch(grid, kPrefillWarps * 32, [&] {
    c.dim <= 64 ? attention_prefill_kernel<T, 64>(p, kBlockShift) : attention_prefill_kernel<T, 128>(p, kBlockShift);
  });
  for (auto s = static_cast<std::size_t>(skipped); s < sequences.size(); ++s) {
    const auto [context, queries] = sequences[s];
    for (int i = 0; i < queries; ++i) {
      const auto token = static_cast<std::size_t>(starts[s] + i);
      for (int head = 0; head < c.heads; ++head) {
        const std::vector<double> expected = exact(c, cache, q.data() + token * row + head * c.dim, s, context - queries + i, head);
        for (int d = 0; d < c.dim; ++d) {
          const double actual =
              to_float(out[token * static_cast<std::size_t>(c.heads * c.dim) + static_cast<std::size_t>(head * c.dim + d)]);
          ASSERT_NEAR(actual, expected[static_cast<std::size_t>(d)], tolerance)
              << "head_dim " << c.dim << ", window " << c.window << ", sequence " << s << ", query " << i << ", head " << head << ", " << d;
        }
      }
    }
  }
}

// Two roundings of values up to 3: of the weights, and of the result.
TEST(PrefillKernel, IsAttention) {
  const std::vector<std::pair<int, int>> sequences{{70, 70}, {90, 17}, {33, 1}, {3, 3}, {140, 66}};
  for (const int window : {0, 30}) {
    check_prefill<__half>({2, 1, 64, window}, sequences, 4e-3);
    check_prefill<__half>({2, 2, 80, window}, sequences, 4e-3);
  }
  check_prefill<__half>({1, 1, 16, 1}, sequences, 4e-3);
  check_prefill<__half>({1, 1, 64, 0}, {{40, 1}, {9, 1}, {70, 70}, {66, 5}}, 4e-3, 2);
  check_prefill<__half>({4, 1, 128, 0}, {{100, 40}}, 4e-3);
  check_prefill<__nv_bfloat16>({2, 1, 128, 50}, {{130, 67}}, 3e-2);
}

struct DecodeCase {
  Sizes sizes;
  std::vector<std::int32_t> contexts;
  bool rotates = false, pads = false;
};

// One decode step, by the fused kernel or by the two that it stands for; returns outputs, then the caches.
template <int kLanes, int kHeads>
std::vector<std::vector<__half>> run_decode(const DecodeCase& c, bool is_fused) {
  Random random(5);
  const Sizes& sizes = c.sizes;
  const auto n = static_cast<int>(c.contexts.size());
  Cache<__half> cache(random, c.contexts, sizes.kv_heads, sizes.dim);
  std::vector<std::int32_t> starts{0}, positions, slots;
  int longest = 0;
  for (std::size_t s = 0; s < c.contexts.size(); ++s) {
    starts.push_back(starts.back() + 1);
    positions.push_back(c.contexts[s] - 1);
    slots.push_back(cache.slot(s, positions.back()));
    longest = std::max(longest, c.contexts[s]);
  }
  if (c.pads) slots.back() = -1;
  const int row = (sizes.heads + 2 * sizes.kv_heads) * sizes.dim;
  std::vector<__half> qkv = random_values<__half>(random, static_cast<std::size_t>(n * row));
  std::vector<float> cos, sin;
  for (int i = 0; i < longest * sizes.dim / 2; ++i) {
    const float angle = 3.0F * random.value();
    cos.push_back(std::cos(angle));
    sin.push_back(std::sin(angle));
  }
  __half *q = qkv.data(), *k = q + sizes.heads * sizes.dim, *v = k + sizes.kv_heads * sizes.dim;
  if (!is_fused) {
    RopeKvParams rope;
    rope.q = q;
    rope.k = k;
    rope.v = v;
    rope.keys = cache.keys.data();
    rope.values = cache.values.data();
    rope.cos = c.rotates ? cos.data() : nullptr;
    rope.sin = sin.data();
    rope.positions = positions.data();
    rope.slots = slots.data();
    rope.q_token = rope.k_token = rope.v_token = row;
    rope.q_head = rope.k_head = rope.v_head = sizes.dim;
    rope.n = n;
    rope.num_heads = sizes.heads;
    rope.num_kv_heads = sizes.kv_heads;
    rope.head_dim = sizes.dim;
    rope.rotary_half = c.rotates ? sizes.dim / 2 : 0;
    rope.block_size = kBlockSize;
    emulation::launch({static_cast<unsigned>(n), 1, 1}, 128, [&] { rope_kv_kernel<__half, __half>(rope); });
  }
  const NewTokenParams fresh{k,
                             v,
                             c.rotates ? cos.data() : nullptr,
                             sin.data(),
                             positions.data(),
                             slots.data(),
                             cache.keys.data(),
                             cache.values.data(),
                             row,
                             sizes.dim,
                             row,
                             sizes.dim};
  std::vector<__half> out(static_cast<std::size_t>(n * sizes.heads * sizes.dim), __float2half(NAN));
  PagedAttentionParams p = params_of(sizes, cache, starts, c.contexts);
  p.q = q;
  p.q_token = row;
  p.out = out.data();
  p.num_splits = (longest + kSplitTokens - 1) / kSplitTokens;
  std::vector<float> partials(static_cast<std::size_t>(n * sizes.heads * p.num_splits * (sizes.dim + 2)), NAN);
  p.partials = partials.data();
  const emulation::Index grid{static_cast<unsigned>(n), static_cast<unsigned>(sizes.heads / kHeads), static_cast<unsigned>(p.num_splits)};
  emulation::launch(grid, kDecodeWarps * 32, [&] {
    is_fused ? attention_decode_kernel<__half, kLanes, kHeads, true>(p, fresh, kBlockShift)
             : attention_decode_kernel<__half, kLanes, kHeads, false>(p, fresh, kBlockShift);
  });
  if (p.num_splits > 1) {
    const emulation::Index rows{static_cast<unsigned>(n), static_cast<unsigned>(sizes.heads), 1};
    emulation::launch(rows, static_cast<unsigned>(std::min(128, (sizes.dim + 31) / 32 * 32)), [&] { attention_combine_kernel<__half>(p); });
  }
  if (c.pads) out.resize(out.size() - static_cast<std::size_t>(sizes.heads * sizes.dim));  // nobody reads the padding's
  return {out, cache.keys, cache.values};
}

template <int kLanes, int kHeads>
void check_fused(const DecodeCase& c) {
  const auto expected = run_decode<kLanes, kHeads>(c, false), actual = run_decode<kLanes, kHeads>(c, true);
  for (std::size_t part = 0; part < 3; ++part) {
    for (std::size_t i = 0; i < expected[part].size(); ++i) {
      const float a = to_float(actual[part][i]), b = to_float(expected[part][i]);
      if (std::isnan(b) && part > 0) {  // an unused slot
        ASSERT_TRUE(std::isnan(a)) << "part " << part << " at " << i;
      } else {
        ASSERT_NEAR(a, b, 4e-3) << "part " << part << " at " << i << ", head_dim " << c.sizes.dim;
      }
    }
  }
}

TEST(FusedDecodeKernel, IsRotationWriteAndAttention) {
  for (const bool rotates : {false, true}) {
    check_fused<16, 4>({{8, 2, 128, 0}, {1, 65, 300, 16, 17}, rotates, false});
    check_fused<8, 1>({{2, 2, 64, 40}, {300, 33}, rotates, false});
    check_fused<4, 2>({{4, 1, 32, 0}, {12, 33}, rotates, true});
    check_fused<32, 8>({{16, 1, 256, 0}, {257}, rotates, false});  // two blocks share a head of keys
  }
}

}  // namespace
}  // namespace gossamer::cuda
