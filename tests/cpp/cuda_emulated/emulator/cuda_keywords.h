// The keywords and built-ins of CUDA that kernels use, for a host compiler. Keywords can only be macros.
#pragma once

#include <algorithm>
#include <bit>
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
struct alignas(8) uint2 {
  std::uint32_t x, y;
};
struct float2 {
  float x, y;
};
inline uint2 make_uint2(std::uint32_t x, std::uint32_t y) { return {x, y}; }
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
inline std::uint32_t __float_as_uint(float x) { return std::bit_cast<std::uint32_t>(x); }
inline float __uint_as_float(std::uint32_t x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float2int_rn(float x) { return std::isnan(x) ? 0 : static_cast<int>(std::nearbyint(x)); }
using std::max;
using std::min;
