// Paged attention of any shape and KV type: one warp per token and head. The others are faster where they apply.
#pragma once

#include "device/numeric.cuh"
#include "device/ptx.cuh"
#include "device/shared.cuh"
#include "kernels/attention_params.h"

namespace gossamer::cuda {

// The sequence that owns a token: the last that starts at or before it and is not empty.
__device__ __forceinline__ int sequence_of(const std::int32_t* query_start, int num_seqs, int token) {
  int low = 0, high = num_seqs;  // query_start[low] <= token < query_start[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (query_start[middle] <= token ? low : high) = middle;
  }
  return low;
}

// What a token, counted from first_token, may see of its sequence's context.
struct Visible {
  int sequence, begin, end;
};
__device__ __forceinline__ Visible visible_to(const PagedAttentionParams& p, int token) {
  token += p.first_token;
  const int s = sequence_of(p.query_start, p.num_seqs, token);
  const int end = p.context_len[s] - (p.query_start[s + 1] - token) + 1;
  return {s, p.window > 0 && end > p.window ? end - p.window : 0, end};
}

inline constexpr int kAnyWarps = 4;
inline constexpr int kAnyPerLane = 8;  // head_dim <= 256

template <class T, class Kv>
__global__ void attention_any_kernel(const __grid_constant__ PagedAttentionParams p) {
  auto* const shared_q = reinterpret_cast<float*>(dynamic_shared());  // [warps, head_dim]
  if (p.overlaps) ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t unit = std::int64_t{blockIdx.x} * kAnyWarps + warp;
  if (unit >= std::int64_t{p.n} * p.num_heads) return;  // warps work alone
  const int token = static_cast<int>(unit / p.num_heads), head = static_cast<int>(unit % p.num_heads);
  const int kv_head = head / (p.num_heads / p.num_kv_heads);
  const T* q = static_cast<const T*>(p.q) + token * p.q_token + head * p.q_head;
  float* own_q = shared_q + warp * p.head_dim;
  for (int d = lane; d < p.head_dim; d += 32) own_q[d] = to_float(q[d]);
  __syncwarp();

  const Visible seen = visible_to(p, token);
  const std::int32_t* table = p.block_table + seen.sequence * p.table_stride;
  const auto row_of = [&](int t) {
    return ((std::int64_t{table[t / p.block_size]} * p.num_kv_heads + kv_head) * p.block_size + t % p.block_size) * p.head_dim;
  };
  float largest = -INFINITY, total = 0.0F, sums[kAnyPerLane] = {};
  for (int first = seen.begin; first < seen.end; first += 32) {
    const bool is_mine = first + lane < seen.end;
    const std::int64_t row = row_of(is_mine ? first + lane : first);
    float score = -INFINITY;
    if (is_mine) {
      const Kv* key = static_cast<const Kv*>(p.keys) + row;
      float dot = 0.0F;
      for (int d = 0; d < p.head_dim; ++d) dot += own_q[d] * to_float(key[d]);
      score = dot * p.scale_log2;
    }
    const float before = largest;
    largest = fmaxf(largest, warp_max(score));
    const float weight = exp2f(score - largest), fade = exp2f(before - largest);
    total = total * fade + warp_sum(weight);
#pragma unroll
    for (int i = 0; i < kAnyPerLane; ++i) sums[i] *= fade;
    for (int t = 0; t < 32 && first + t < seen.end; ++t) {
      const Kv* value = static_cast<const Kv*>(p.values) + __shfl_sync(0xffffffffU, row, t);
      const float w = __shfl_sync(0xffffffffU, weight, t);
#pragma unroll
      for (int i = 0; i < kAnyPerLane; ++i)
        if (lane + 32 * i < p.head_dim) sums[i] += w * to_float(value[lane + 32 * i]);
    }
  }
  T* out = static_cast<T*>(p.out) + token * p.out_token + head * p.out_head;
#pragma unroll
  for (int i = 0; i < kAnyPerLane; ++i)
    if (lane + 32 * i < p.head_dim) out[lane + 32 * i] = from_float<T>(seen.begin < seen.end ? sums[i] / total : 0.0F);
}

}  // namespace gossamer::cuda
