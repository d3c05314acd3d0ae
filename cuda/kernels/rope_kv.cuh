// Rotary embedding and KV write, one block per token.
#pragma once

#include "device/numeric.cuh"
#include "device/ptx.cuh"
#include "kernels/attention_params.h"

namespace gossamer::cuda {

template <class T, class Kv>
__global__ void rope_kv_kernel(const __grid_constant__ RopeKvParams p) {
  if (p.overlaps) ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const std::int64_t token = blockIdx.x;
  T* q = static_cast<T*>(p.q) + token * p.q_token;
  T* k = static_cast<T*>(p.k) + token * p.k_token;
  const T* v = static_cast<const T*>(p.v) + token * p.v_token;
  const std::int32_t slot = p.slots[token];
  const std::int64_t page = slot < 0 ? 0 : std::int64_t{slot} / p.block_size * p.num_kv_heads;
  // Index of (slot, head, d) in a pool.
  const auto pool_index = [&](int head, int d) {
    return ((page + head) * p.block_size + slot % p.block_size) * std::int64_t{p.head_dim} + d;
  };
  Kv* keys = static_cast<Kv*>(p.keys);
  Kv* values = static_cast<Kv*>(p.values);

  const int half = p.cos == nullptr ? 0 : p.rotary_half;
  if (half > 0) {
    const std::int64_t row = std::int64_t{p.positions[token]} * half;
    for (int i = static_cast<int>(threadIdx.x); i < (p.num_heads + p.num_kv_heads) * half; i += static_cast<int>(blockDim.x)) {
      const int head = i / half, d = i % half;
      const bool is_q = head < p.num_heads;
      T* x = is_q ? q + head * p.q_head : k + (head - p.num_heads) * p.k_head;
      const float cos = p.cos[row + d], sin = p.sin[row + d];
      const float a = to_float(x[d]), b = to_float(x[d + half]);
      const T first = from_float<T>(a * cos - b * sin), second = from_float<T>(b * cos + a * sin);
      x[d] = first;
      x[d + half] = second;
      if (!is_q && slot >= 0) {
        keys[pool_index(head - p.num_heads, d)] = from_float<Kv>(to_float(first));
        keys[pool_index(head - p.num_heads, d + half)] = from_float<Kv>(to_float(second));
      }
    }
  }
  if (slot < 0) return;
  const int rest = p.head_dim - 2 * half;  // not rotated
  for (int i = static_cast<int>(threadIdx.x); i < p.num_kv_heads * rest; i += static_cast<int>(blockDim.x)) {
    const int head = i / rest, d = 2 * half + i % rest;
    keys[pool_index(head, d)] = from_float<Kv>(to_float(k[head * p.k_head + d]));
  }
  for (int i = static_cast<int>(threadIdx.x); i < p.num_kv_heads * p.head_dim; i += static_cast<int>(blockDim.x)) {
    const int head = i / p.head_dim, d = i % p.head_dim;
    values[pool_index(head, d)] = from_float<Kv>(to_float(v[head * p.v_head + d]));
  }
}

}  // namespace gossamer::cuda
