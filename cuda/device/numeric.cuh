// Element types of device code: conversion to and from float, and loads of eight at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace gossamer::cuda {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// Eight half-precision elements as one 16-byte access.
template <class T>
struct alignas(16) Eight {
  T at[8];
};

template <class T>
__device__ __forceinline__ void load_eight(float (&out)[8], const T* from) {
  const Eight<T> v = *reinterpret_cast<const Eight<T>*>(from);
#pragma unroll
  for (int i = 0; i < 8; ++i) out[i] = to_float(v.at[i]);
}

template <class T>
__device__ __forceinline__ void store_eight(T* to, const float (&in)[8]) {
  Eight<T> v;
#pragma unroll
  for (int i = 0; i < 8; ++i) v.at[i] = from_float<T>(in[i]);
  *reinterpret_cast<Eight<T>*>(to) = v;
}

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffU, x, distance);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffU, x, distance));
  return x;
}

// Sum over a block of at most 32 warps, the same on every thread; the order depends on the block's size alone. scratch: 32 elements of
// shared memory, free again on return.
template <class T>
__device__ T block_sum(T x, T* scratch) {
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  T total{};
  for (unsigned i = 0; i < (blockDim.x + 31) / 32; ++i) total += scratch[i];
  __syncthreads();  // scratch may be written again
  return total;
}

}  // namespace gossamer::cuda
