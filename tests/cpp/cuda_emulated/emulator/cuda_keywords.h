// The keywords and built-ins of CUDA that kernels use, for a host compiler. Keywords can only be macros.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#define __global__
#define __device__
#define __shared__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#ifndef __CUDA_ARCH__  // a program may be built for an older GPU
#define __CUDA_ARCH__ 900
#endif
#define __CUDA_ARCH_FEAT_SM90_ALL 1

struct float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  std::uint32_t x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(std::uint32_t x, std::uint32_t y, std::uint32_t z, std::uint32_t w) { return {x, y, z, w}; }

struct BuiltIn {
  unsigned x = 0, y = 0;
};
extern BuiltIn threadIdx, blockIdx, gridDim;

void __syncthreads();
void __syncwarp();
std::uint32_t __shfl_sync(std::uint32_t mask, std::uint32_t value, int lane);
template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  return *address;
}
template <class T>
void __stcg(T* address, const T& value) {
  *address = value;
}
inline int __popc(std::uint32_t value) { return __builtin_popcount(value); }
inline float __expf(float x) { return std::exp(x); }
using std::min;
