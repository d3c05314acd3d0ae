// Embedding, norms, gated activation, gather, add and the epilogue of products that were summed elsewhere. One block per row.
#pragma once

#include "device/numeric.cuh"
#include "device/ptx.cuh"
#include "kernels/activation.cuh"
#include "kernels/rowwise_params.h"

namespace gossamer::cuda {

template <class T, class Table>
__global__ void embedding_kernel(const __grid_constant__ EmbeddingParams p) {
  if (p.overlaps) ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const std::int64_t i = blockIdx.x;
  const std::int64_t row = p.ids[i] - p.row_begin;
  const bool ours = row >= 0 && row < p.rows;
  const Table* from = static_cast<const Table*>(p.table) + (ours ? row : 0) * p.table_stride;
  T* to = static_cast<T*>(p.out) + i * p.out_stride;
  for (std::int64_t j = threadIdx.x; j < p.size; j += blockDim.x) {
    const float before = p.accumulate ? to_float(to[j]) : 0.0F;
    to[j] = from_float<T>(before + (ours ? to_float(from[j]) : 0.0F));
  }
}

// The vector is read again for each pass: it lies in L1 after the first.
template <class T, bool kLayerNorm>
__global__ void norm_kernel(const __grid_constant__ NormParams p) {
  if (p.overlaps) ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  __shared__ float scratch[32];
  const std::int64_t v = blockIdx.x;
  const T* x = static_cast<const T*>(p.x) + v / p.inner * p.x_outer + v % p.inner * p.x_inner;
  T* out = static_cast<T*>(p.out) + v / p.inner * p.out_outer + v % p.inner * p.out_inner;
  const T* weight = static_cast<const T*>(p.weight);
  const float scale = 1.0F / static_cast<float>(p.size);
  float mean = 0.0F;
  if constexpr (kLayerNorm) {
    float sum = 0.0F;
    for (std::int64_t j = threadIdx.x; j < p.size; j += blockDim.x) sum += to_float(x[j]);
    mean = block_sum(sum, scratch) * scale;
  }
  float squares = 0.0F;
  for (std::int64_t j = threadIdx.x; j < p.size; j += blockDim.x) {
    const float centred = to_float(x[j]) - mean;
    squares += centred * centred;
  }
  const float factor = rsqrtf(block_sum(squares, scratch) * scale + p.eps);
  for (std::int64_t j = threadIdx.x; j < p.size; j += blockDim.x) {
    float y = (to_float(x[j]) - mean) * factor * to_float(weight[j]);
    if constexpr (kLayerNorm) y += to_float(static_cast<const T*>(p.bias)[j]);
    out[j] = from_float<T>(y);
  }
}

// Norms of rows whose every access is 16 bytes; up to 8 * kPerThread elements a thread stay in registers. The parameters are read before
// the kernel waits for the one before it.
template <class T, bool kLayerNorm, int kPerThread>
__global__ void norm_vector_kernel(const __grid_constant__ NormParams p) {
  __shared__ float scratch[32];
  if (p.overlaps) ptx::launch_dependents();
  const auto column = [](int i) { return 8 * (static_cast<int>(threadIdx.x) + i * static_cast<int>(blockDim.x)); };
  const int size = static_cast<int>(p.size);
  Eight<T> weight[kPerThread] = {}, bias[kPerThread] = {};  // parameters: nothing before writes them
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    if (column(i) >= size) break;
    weight[i] = *reinterpret_cast<const Eight<T>*>(static_cast<const T*>(p.weight) + column(i));
    if constexpr (kLayerNorm) bias[i] = *reinterpret_cast<const Eight<T>*>(static_cast<const T*>(p.bias) + column(i));
  }
  ptx::wait_for_previous_grid();
  const std::int64_t v = blockIdx.x;
  const T* x = static_cast<const T*>(p.x) + v / p.inner * p.x_outer + v % p.inner * p.x_inner;
  T* out = static_cast<T*>(p.out) + v / p.inner * p.out_outer + v % p.inner * p.out_inner;
  float values[kPerThread][8] = {};
  float sum = 0.0F, squares = 0.0F;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    if (column(i) >= size) break;
    load_eight(values[i], x + column(i));
#pragma unroll
    for (int e = 0; e < 8; ++e) sum += values[i][e];
  }
  const float mean = kLayerNorm ? block_sum(sum, scratch) / static_cast<float>(size) : 0.0F;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    if (column(i) >= size) break;
#pragma unroll
    for (int e = 0; e < 8; ++e) squares += (values[i][e] - mean) * (values[i][e] - mean);
  }
  const float factor = rsqrtf(block_sum(squares, scratch) / static_cast<float>(size) + p.eps);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    if (column(i) >= size) break;
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      values[i][e] = (values[i][e] - mean) * factor * to_float(weight[i].at[e]);
      if constexpr (kLayerNorm) values[i][e] += to_float(bias[i].at[e]);
    }
    store_eight(out + column(i), values[i]);
  }
}

template <class T, bool kVector>
__global__ void gated_kernel(const __grid_constant__ GatedParams p) {
  if (p.overlaps) ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const T* gate = static_cast<const T*>(p.gate_up) + blockIdx.y * p.in_stride;
  T* out = static_cast<T*>(p.out) + blockIdx.y * p.out_stride;
  const std::int64_t j = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if constexpr (kVector) {
    if (8 * j >= p.size) return;
    float a[8], b[8];
    load_eight(a, gate + 8 * j);
    load_eight(b, gate + p.size + 8 * j);
#pragma unroll
    for (int e = 0; e < 8; ++e) a[e] = activate(a[e], p.act) * b[e];
    store_eight(out + 8 * j, a);
  } else {
    if (j < p.size) out[j] = from_float<T>(activate(to_float(gate[j]), p.act) * to_float(gate[p.size + j]));
  }
}

template <class T>
__global__ void gather_kernel(const __grid_constant__ GatherParams p) {
  if (p.overlaps) ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const T* from = static_cast<const T*>(p.x) + p.rows[blockIdx.x] * p.x_stride;
  T* to = static_cast<T*>(p.out) + blockIdx.x * p.out_stride;
  for (std::int64_t j = threadIdx.x; j < p.size; j += blockDim.x) to[j] = from[j];
}

// Reads `words` 16-byte words and keeps next to nothing of them: the ceiling of what a kernel can read.
__global__ void read_kernel(const uint4* memory, std::int64_t words, std::uint32_t* sink) {
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  std::uint32_t sum = 0;
#pragma unroll 8
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < words; i += stride) {
    const uint4 word = __ldg(memory + i);
    sum += word.x ^ word.y ^ word.z ^ word.w;
  }
  if (sum == 0x9e3779b9U) *sink = sum;  // so that the loads are not optimised away
}

__global__ void take_kernel(const __grid_constant__ TakeParams p) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < p.n && p.rows[i] >= 0) p.ids[i] = p.tokens[p.rows[i]];
}

template <class T>
__global__ void add_kernel(const __grid_constant__ AddParams p) {
  if (p.overlaps) ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  T* x = static_cast<T*>(p.x) + blockIdx.x * p.x_stride;
  const T* y = static_cast<const T*>(p.y) + blockIdx.x * p.y_stride;
  for (std::int64_t j = threadIdx.x; j < p.size; j += blockDim.x) x[j] = from_float<T>(to_float(x[j]) + to_float(y[j]));
}

template <class T, class Out>
__global__ void epilogue_kernel(const __grid_constant__ EpilogueParams p) {
  if (p.overlaps) ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const float* sums = p.sums + blockIdx.x * p.size;
  Out* out = static_cast<Out*>(p.out) + blockIdx.x * p.out_stride;
  for (std::int64_t j = threadIdx.x; j < p.size; j += blockDim.x) {
    float y = sums[j];
    if (p.bias != nullptr) y += to_float(static_cast<const T*>(p.bias)[j]);
    y = activate(y, p.act);
    if (p.residual != nullptr) y += to_float(static_cast<const Out*>(p.residual)[blockIdx.x * p.residual_stride + j]);
    out[j] = from_float<Out>(y);
  }
}

}  // namespace gossamer::cuda
