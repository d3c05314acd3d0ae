// Logits to tokens, one block per row. Weights are summed as integers, so that no sum depends on its order; the draw walks the surviving
// tokens by id, as the CPU's does.
#pragma once

#include <cstdint>

#include "device/numeric.cuh"
#include "kernels/sample_params.h"

namespace gossamer::cuda {

inline constexpr int kSampleThreads = 1024;
inline constexpr int kSampleWarps = kSampleThreads / 32;
inline constexpr float kWeightOne = 1099511627776.0F;  // 2^40: a weight of 1, with room for 2^24 tokens in 64 bits

struct SampleShared {
  double doubles[32];
  float floats[32];
  std::int32_t ints[32];
  unsigned long long weights[kSampleWarps];
  unsigned long long histogram[256];
  unsigned long long above;
  std::int32_t found;
};

struct RowMax {
  float max = 0.0F;
  std::int32_t argmax = 0;  // the smallest id among equals
  bool finite = false;
};

__device__ inline RowMax summarize_row(const float* x, int vocab, SampleShared& shared) {
  float max = -INFINITY;
  std::int32_t argmax = 0x7fffffff;
  bool ordered = true;
  for (int i = static_cast<int>(threadIdx.x); i < vocab; i += kSampleThreads) {
    const float v = x[i];
    ordered = ordered && v < INFINITY;
    if (v > max) {
      max = v;
      argmax = i;
    }
  }
  const auto merge = [&](float other_max, std::int32_t other_argmax) {
    if (other_max > max || (other_max == max && other_argmax < argmax)) {
      max = other_max;
      argmax = other_argmax;
    }
  };
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const float other_max = __shfl_xor_sync(0xffffffffU, max, distance);
    merge(other_max, __shfl_xor_sync(0xffffffffU, argmax, distance));
  }
  if (threadIdx.x % 32 == 0) {
    shared.floats[threadIdx.x / 32] = max;
    shared.ints[threadIdx.x / 32] = argmax;
  }
  ordered = __syncthreads_and(ordered) != 0;
  for (int w = 0; w < kSampleWarps; ++w) merge(shared.floats[w], shared.ints[w]);
  __syncthreads();  // shared may be written again
  return {max, argmax, ordered && max > -INFINITY};
}

// Larger logits have larger keys; -0 and +0 the same.
__device__ __forceinline__ std::uint32_t key_of(float x) {
  const std::uint32_t bits = __float_as_uint(x + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// The tokens that may still be drawn: logits above a key, and those equal to it up to an id.
struct Survivors {
  const float* logits = nullptr;
  float max = 0.0F, inverse_temperature = 0.0F, least_weight = 0.0F;
  std::uint32_t key = 0;
  std::int32_t last_tie = 0x7fffffff;

  __device__ bool contains(int i) const {
    const std::uint32_t own = key_of(logits[i]);
    return own > key || (own == key && i <= last_tie);
  }
  // 0 for a token that is out.
  __device__ unsigned long long weight(int i) const {
    const float relative = expf((logits[i] - max) * inverse_temperature);
    if (!(relative > 0.0F) || relative < least_weight || !contains(i)) return 0;
    return __float2ull_rn(relative * kWeightOne);
  }
};

// A contiguous share of the row per warp.
struct WarpShare {
  int begin, end;
};
__device__ inline WarpShare share_of(int warp, int vocab) {
  const int size = (vocab + kSampleWarps - 1) / kSampleWarps;
  return {min(vocab, warp * size), min(vocab, (warp + 1) * size)};
}

// The first id at which the amounts, summed by id, exceed `target`; the last with an amount if none does; -1 if all are 0.
template <class Amount>
__device__ int first_exceeding(unsigned long long target, int vocab, const Amount& amount, SampleShared& shared) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const WarpShare share = share_of(warp, vocab);
  unsigned long long sum = 0;
  for (int i = share.begin + lane; i < share.end; i += 32) sum += amount(i);
  sum = warp_sum(sum);
  if (lane == 0) shared.weights[warp] = sum;
  if (threadIdx.x == 0) shared.found = -1;
  __syncthreads();
  unsigned long long passed = 0, reached = 0;
  int chosen = -1;  // the share that holds it; `passed` lie before
  for (int w = 0; w < kSampleWarps; ++w) {
    if (shared.weights[w] == 0) continue;
    chosen = w;
    passed = reached;
    reached += shared.weights[w];
    if (target < reached) break;
  }
  if (warp == chosen) {
    int found = -1;
    for (int first = share.begin; first < share.end; first += 32) {
      const unsigned long long own = first + lane < share.end ? amount(first + lane) : 0;
      unsigned long long inclusive = own;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const unsigned long long other = __shfl_up_sync(0xffffffffU, inclusive, distance);
        if (lane >= distance) inclusive += other;
      }
      const unsigned nonzero = __ballot_sync(0xffffffffU, own > 0);
      const unsigned exceeds = __ballot_sync(0xffffffffU, own > 0 && passed + inclusive > target);
      if (exceeds != 0) {
        found = first + __ffs(static_cast<int>(exceeds)) - 1;
        break;
      }
      if (nonzero != 0) found = first + 31 - __clz(static_cast<int>(nonzero));
      passed += __shfl_sync(0xffffffffU, inclusive, 31);
    }
    if (lane == 0) shared.found = found;
  }
  __syncthreads();
  const int found = shared.found;
  __syncthreads();  // shared may be written again
  return found;
}

// Narrows the survivors to the most likely ones, ties by smaller id, up to the one with which their amounts reach `wanted`, at least one.
// A radix search for the key of that last one, eight bits at a time.
template <class Amount>
__device__ void keep_largest(Survivors& survivors, unsigned long long wanted, int vocab, const Amount& amount, SampleShared& shared) {
  std::uint32_t prefix = 0;
  unsigned long long above = 0, ties = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int b = static_cast<int>(threadIdx.x); b < 256; b += kSampleThreads) shared.histogram[b] = 0;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < vocab; i += kSampleThreads) {
      const std::uint32_t key = key_of(survivors.logits[i]);
      if (shift < 24 && key >> (shift + 8) != prefix >> (shift + 8)) continue;
      const unsigned long long own = amount(i);
      if (own > 0) atomicAdd(&shared.histogram[key >> shift & 255U], own);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int bucket = 255, last = -1;
      unsigned long long sum = above;
      for (; bucket >= 0; --bucket) {
        const unsigned long long own = shared.histogram[bucket];
        if (own == 0) continue;
        last = bucket;
        if (sum + own >= wanted) break;
        sum += own;
      }
      if (bucket < 0) sum -= shared.histogram[last];  // all of them do not reach: the last with any
      shared.above = sum;
      shared.found = last;
    }
    __syncthreads();
    above = shared.above;
    ties = shared.histogram[shared.found];
    prefix |= static_cast<std::uint32_t>(shared.found) << shift;
    __syncthreads();
  }
  // Equal logits have equal amounts: cut the ties by id where not all are needed.
  if (prefix != survivors.key) survivors.last_tie = 0x7fffffff;
  survivors.key = prefix;
  if (above + ties <= wanted) return;
  const auto tie_amount = [&](int i) { return key_of(survivors.logits[i]) == prefix ? amount(i) : 0ULL; };
  const unsigned long long left = wanted > above ? wanted - above : 1;
  survivors.last_tie = first_exceeding(left - 1, vocab, tie_amount, shared);
}

__device__ inline int draw(const SampleParams& p, const SampleRowParams& row, const float* logits, const RowMax& top,
                           SampleShared& shared) {
  Survivors survivors{logits, top.max, row.inverse_temperature, row.min_p};
  const auto weight = [&](int i) { return survivors.weight(i); };
  const auto total = [&] {
    unsigned long long sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < p.vocab; i += kSampleThreads) sum += survivors.weight(i);
    return block_sum(sum, shared.weights);
  };
  if (row.top_k > 0 && row.top_k < p.vocab) {
    const auto one = [&](int i) { return survivors.weight(i) > 0 ? 1ULL : 0ULL; };
    keep_largest(survivors, static_cast<unsigned long long>(row.top_k), p.vocab, one, shared);
  }
  if (row.top_p < 1.0F) {
    const double wanted = static_cast<double>(row.top_p) * static_cast<double>(total());
    keep_largest(survivors, static_cast<unsigned long long>(ceil(wanted)), p.vocab, weight, shared);
  }
  const unsigned long long all = total();
  const auto target = static_cast<unsigned long long>(row.uniform * static_cast<double>(all));
  const int token = first_exceeding(target < all ? target : all - 1, p.vocab, weight, shared);
  return token >= 0 ? token : top.argmax;
}

// Log-probabilities of the raw logits: the token's own, its rank, and the most likely ones.
__device__ inline void report(const SampleParams& p, const float* logits, const RowMax& top, int row, int token, int num_logprobs,
                              SampleShared& shared) {
  double sum = 0.0;
  std::int32_t ahead = 0;
  const float own = logits[token];
  for (int i = static_cast<int>(threadIdx.x); i < p.vocab; i += kSampleThreads) {
    const float x = logits[i];
    sum += static_cast<double>(expf(x - top.max));
    ahead += x > own || (x == own && i < token) ? 1 : 0;
  }
  const double log_total = log(block_sum(sum, shared.doubles));
  const std::int32_t rank = 1 + block_sum(ahead, shared.ints);
  const auto logprob = [&](float x) { return static_cast<float>(static_cast<double>(x) - static_cast<double>(top.max) - log_total); };
  if (threadIdx.x == 0) {
    p.logprobs[row] = logprob(own);
    p.ranks[row] = rank;
  }
  // One pass per place: the largest after the one before, ties by id.
  float last = INFINITY;
  std::int32_t last_token = -1;
  for (int place = 0; place < min(num_logprobs, p.vocab); ++place) {
    float best = -INFINITY;
    std::int32_t best_token = 0x7fffffff;
    const auto merge = [&](float x, std::int32_t i) {
      if (x > best || (x == best && i < best_token)) {
        best = x;
        best_token = i;
      }
    };
    for (int i = static_cast<int>(threadIdx.x); i < p.vocab; i += kSampleThreads) {
      const float x = logits[i];
      if (x > -INFINITY && (x < last || (x == last && i > last_token))) merge(x, i);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      const float other = __shfl_xor_sync(0xffffffffU, best, distance);
      merge(other, __shfl_xor_sync(0xffffffffU, best_token, distance));
    }
    if (threadIdx.x % 32 == 0) {
      shared.floats[threadIdx.x / 32] = best;
      shared.ints[threadIdx.x / 32] = best_token;
    }
    __syncthreads();
    for (int w = 0; w < kSampleWarps; ++w) merge(shared.floats[w], shared.ints[w]);
    __syncthreads();  // shared may be written again
    if (best == -INFINITY) break;
    if (threadIdx.x == 0) {
      p.top_tokens[std::int64_t{row} * p.max_logprobs + place] = best_token;
      p.top_logprobs[std::int64_t{row} * p.max_logprobs + place] = logprob(best);
    }
    last = best;
    last_token = best_token;
  }
}

__global__ void __launch_bounds__(kSampleThreads) sample_kernel(const SampleParams p) {
  __shared__ SampleShared shared;
  const int r = static_cast<int>(blockIdx.x);
  const SampleRowParams row = p.rows[r];
  float* logits = p.logits + r * p.stride;
  const bool is_scored = row.target >= 0;
  const int num_logprobs = is_scored ? max(row.num_logprobs, 0) : row.num_logprobs;
  for (int i = static_cast<int>(threadIdx.x); i < p.max_logprobs; i += kSampleThreads) {
    p.top_tokens[std::int64_t{r} * p.max_logprobs + i] = -1;
    p.top_logprobs[std::int64_t{r} * p.max_logprobs + i] = -INFINITY;
  }
  if (threadIdx.x == 0) {
    p.logprobs[r] = __int_as_float(0x7fc00000);  // NaN
    p.ranks[r] = 0;
  }

  int token = row.target;
  RowMax top;
  if (!is_scored) {
    for (int i = static_cast<int>(threadIdx.x); i < row.num_adjustments; i += kSampleThreads) {
      const AdjustmentParams a = p.adjustments[row.first_adjustment + i];
      float x = logits[a.token];
      p.saved[row.first_adjustment + i] = x;
      if (a.seen != 0) x = x > 0.0F ? x / row.repetition_penalty : x * row.repetition_penalty;
      if (a.output_count > 0) x -= row.presence_penalty + row.frequency_penalty * static_cast<float>(a.output_count);
      logits[a.token] = x + a.bias;
    }
    __syncthreads();
    top = summarize_row(logits, p.vocab, shared);
    token = !top.finite ? -1 : row.is_greedy != 0 ? top.argmax : draw(p, row, logits, top, shared);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < row.num_adjustments; i += kSampleThreads) {
      logits[p.adjustments[row.first_adjustment + i].token] = p.saved[row.first_adjustment + i];
    }
    __syncthreads();
  }
  if (token >= 0 && num_logprobs >= 0) {
    if (is_scored || row.num_adjustments > 0) top = summarize_row(logits, p.vocab, shared);
    if (!top.finite) token = -1;
    if (token >= 0) report(p, logits, top, r, token, num_logprobs, shared);
  }
  if (threadIdx.x == 0) p.tokens[r] = token;
}

}  // namespace gossamer::cuda
