// Paged attention for few queries per sequence: a block takes one token, a group of heads that share a KV head, and kSplitTokens of the
// context, so that long contexts and small batches fill the device. Memory-bound: each lane reads 16 bytes of a key at a time.
#pragma once

#include "device/ptx.cuh"
#include "kernels/attention_any.cuh"

namespace gossamer::cuda {

inline constexpr int kDecodeWarps = 4;
inline constexpr int kDecodeUnroll = 4;  // keys and values in flight per lane

template <int kLanes, int kHeads>
struct DecodeShared {
  static constexpr int kTeams = kDecodeWarps * 32 / kLanes;  // each takes every kTeams-th token
  float sums[kTeams][kHeads][8 * kLanes];
  float largest[kTeams][kHeads];
  float total[kTeams][kHeads];
};

// Rotates the eight elements of a head that a lane holds; the other element of each pair is kLanes / 2 lanes away. Rounded to T.
template <class T, int kLanes>
__device__ __forceinline__ void rotate_eight(float (&x)[8], const float (&cos)[8], const float (&sin)[8], bool is_first_half) {
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const float other = __shfl_xor_sync(0xffffffffU, x[e], kLanes / 2);
    x[e] = to_float(from_float<T>(is_first_half ? x[e] * cos[e] - other * sin[e] : x[e] * cos[e] + other * sin[e]));
  }
}

// cos and sin of the pairs that a lane's eight elements belong to.
template <int kLanes>
__device__ __forceinline__ void load_angles(float (&cos)[8], float (&sin)[8], const NewTokenParams& fresh, int token, int lane) {
  const std::int64_t at = std::int64_t{fresh.positions[token]} * (4 * kLanes) + 8 * (lane % (kLanes / 2));
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    cos[e] = fresh.cos[at + e];
    sin[e] = fresh.sin[at + e];
  }
}

// head_dim = at most 8 * kLanes, a multiple of 8; kHeads query heads per block (grid: token, head group, split). kFresh: q and k are as
// they came from the product, one token per sequence: they are rotated (then head_dim = 8 * kLanes), and k and v written to the cache,
// here.
template <class T, int kLanes, int kHeads, bool kFresh>
__global__ void __launch_bounds__(kDecodeWarps * 32)
    attention_decode_kernel(const __grid_constant__ PagedAttentionParams p, const __grid_constant__ NewTokenParams fresh, int block_shift) {
  __shared__ DecodeShared<kLanes, kHeads> shared;
  if (p.overlaps) ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  constexpr int kTeams = DecodeShared<kLanes, kHeads>::kTeams;
  const int token = static_cast<int>(blockIdx.x), split = static_cast<int>(blockIdx.z);
  const int first_head = static_cast<int>(blockIdx.y) * kHeads;
  const int kv_head = first_head / (p.num_heads / p.num_kv_heads);
  const int team = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  const Visible seen = visible_to(p, token);
  // Splits count from the context's start, whatever the window: the same token always falls into the same split.
  const int begin = max(seen.begin, split * kSplitTokens), end = min(seen.end, (split + 1) * kSplitTokens);
  if (begin >= end && p.num_splits > 1) return;  // the combining kernel knows

  const bool is_active = 8 * lane < p.head_dim;
  float q[kHeads][8] = {}, sums[kHeads][8] = {}, largest[kHeads], total[kHeads] = {};
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    largest[h] = -INFINITY;
    if (is_active) load_eight(q[h], static_cast<const T*>(p.q) + token * p.q_token + (first_head + h) * p.q_head + 8 * lane);
  }
  if constexpr (kFresh) {
    float key[8] = {};
    const bool is_writer = end == seen.end && (end - 1 - begin) % kTeams == team && is_active;  // this team will read the token again
    if (is_active) load_eight(key, static_cast<const T*>(fresh.k) + token * fresh.k_token + kv_head * fresh.k_head + 8 * lane);
    if (fresh.cos != nullptr) {
      float cos[8], sin[8];
      load_angles<kLanes>(cos, sin, fresh, token, lane);
      rotate_eight<T, kLanes>(key, cos, sin, lane < kLanes / 2);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) rotate_eight<T, kLanes>(q[h], cos, sin, lane < kLanes / 2);
    }
    const std::int32_t slot = fresh.slots[token];
    if (is_writer && slot >= 0) {
      const std::int64_t row =
          ((std::int64_t{slot >> block_shift} * p.num_kv_heads + kv_head) << block_shift) + (slot & ((1 << block_shift) - 1));
      const std::int64_t at = row * p.head_dim + 8 * lane;
      store_eight(static_cast<T*>(fresh.keys) + at, key);
      *reinterpret_cast<Eight<T>*>(static_cast<T*>(fresh.values) + at) =
          *reinterpret_cast<const Eight<T>*>(static_cast<const T*>(fresh.v) + token * fresh.v_token + kv_head * fresh.v_head + 8 * lane);
    }
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (int e = 0; e < 8; ++e) q[h][e] *= p.scale_log2;
  }
  const std::int32_t* table = p.block_table + seen.sequence * p.table_stride;
  const int block_mask = (1 << block_shift) - 1;
  for (int first = begin; first < end; first += kTeams * kDecodeUnroll) {
    Eight<T> keys[kDecodeUnroll] = {}, values[kDecodeUnroll] = {};
#pragma unroll
    for (int u = 0; u < kDecodeUnroll; ++u) {
      const int t = first + u * kTeams + team;
      if (t < end && is_active) {
        const std::int64_t row = ((std::int64_t{table[t >> block_shift]} * p.num_kv_heads + kv_head) << block_shift) + (t & block_mask);
        const std::int64_t at = row * p.head_dim + 8 * lane;
        keys[u] = *reinterpret_cast<const Eight<T>*>(static_cast<const T*>(p.keys) + at);
        values[u] = *reinterpret_cast<const Eight<T>*>(static_cast<const T*>(p.values) + at);
      }
    }
    float scores[kDecodeUnroll][kHeads];
#pragma unroll
    for (int u = 0; u < kDecodeUnroll; ++u) {
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        float dot = 0.0F;
#pragma unroll
        for (int e = 0; e < 8; ++e) dot += q[h][e] * to_float(keys[u].at[e]);
#pragma unroll
        for (int distance = kLanes / 2; distance > 0; distance /= 2) dot += __shfl_xor_sync(0xffffffffU, dot, distance);
        scores[u][h] = first + u * kTeams + team < end ? dot : -INFINITY;
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float next = largest[h];
#pragma unroll
      for (int u = 0; u < kDecodeUnroll; ++u) next = fmaxf(next, scores[u][h]);
      if (next == -INFINITY) continue;  // this team has no token yet
      const float fade = exp2f(largest[h] - next);
      largest[h] = next;
      total[h] *= fade;
#pragma unroll
      for (int e = 0; e < 8; ++e) sums[h][e] *= fade;
#pragma unroll
      for (int u = 0; u < kDecodeUnroll; ++u) {
        const float weight = exp2f(scores[u][h] - next);
        total[h] += weight;
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[h][e] += weight * to_float(values[u].at[e]);
      }
    }
  }

#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (int e = 0; e < 8; ++e) shared.sums[team][h][8 * lane + e] = sums[h][e];
    if (lane == 0) {
      shared.largest[team][h] = largest[h];
      shared.total[team][h] = total[h];
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kHeads * p.head_dim; i += kDecodeWarps * 32) {
    const int h = i / p.head_dim, d = i % p.head_dim;
    float most = -INFINITY, all = 0.0F, sum = 0.0F;
    for (int t = 0; t < kTeams; ++t) most = fmaxf(most, shared.largest[t][h]);
    for (int t = 0; t < kTeams && most > -INFINITY; ++t) {
      const float factor = exp2f(shared.largest[t][h] - most);
      all += factor * shared.total[t][h];
      sum += factor * shared.sums[t][h][d];
    }
    const int head = first_head + h;
    if (p.num_splits == 1) {
      T* out = static_cast<T*>(p.out) + token * p.out_token + head * p.out_head;
      out[d] = from_float<T>(all > 0.0F ? sum / all : 0.0F);
    } else {
      float* partial = p.partials + ((std::int64_t{token} * p.num_heads + head) * p.num_splits + split) * (p.head_dim + 2);
      partial[d] = sum;
      if (d == 0) {
        partial[p.head_dim] = most;
        partial[p.head_dim + 1] = all;
      }
    }
  }
}

// Adds up the splits in order: one block per token and head, one thread per element.
template <class T>
__global__ void attention_combine_kernel(const __grid_constant__ PagedAttentionParams p) {
  if (p.overlaps) ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const int token = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  const Visible seen = visible_to(p, token);
  const int first = seen.begin / kSplitTokens, last = (seen.end + kSplitTokens - 1) / kSplitTokens;
  const float* partials = p.partials + (std::int64_t{token} * p.num_heads + head) * p.num_splits * (p.head_dim + 2);
  float most = -INFINITY;
  for (int s = first; s < last; ++s) most = fmaxf(most, partials[s * (p.head_dim + 2) + p.head_dim]);
  T* out = static_cast<T*>(p.out) + token * p.out_token + head * p.out_head;
  for (int d = static_cast<int>(threadIdx.x); d < p.head_dim; d += static_cast<int>(blockDim.x)) {
    float all = 0.0F, sum = 0.0F;
    for (int s = first; s < last; ++s) {
      const float* partial = partials + s * (p.head_dim + 2);
      const float factor = exp2f(partial[p.head_dim] - most);
      all += factor * partial[p.head_dim + 1];
      sum += factor * partial[d];
    }
    out[d] = from_float<T>(all > 0.0F ? sum / all : 0.0F);
  }
}

}  // namespace gossamer::cuda
