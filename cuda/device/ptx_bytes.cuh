// Inline PTX of the kernels for 8-bit weights.
#pragma once

#include <cstdint>

namespace gossamer::ptx {

// Three words from an aligned address on.
__device__ __forceinline__ void load_shared_u32x3(std::uint32_t (&v)[3], std::uint32_t address) {
  asm volatile("ld.shared.u32 %0, [%3]; ld.shared.u32 %1, [%3+4]; ld.shared.u32 %2, [%3+8];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2])
               : "r"(address));
}

__device__ __forceinline__ std::uint32_t warp_max(std::uint32_t value) { return __reduce_max_sync(0xffffffffU, value); }

// c += a * b, signed bytes, m16 x n8 x k32; c holds the bits of 32-bit integers.
__device__ __forceinline__ void mma_16x8x32_s8(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  std::int32_t sum[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) sum[i] = __float_as_int(c[i]);
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#pragma unroll
  for (int i = 0; i < 4; ++i) c[i] = __int_as_float(sum[i]);
}

__device__ __forceinline__ std::uint32_t add_f16x2(std::uint32_t a, std::uint32_t b) {
  std::uint32_t d;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

// Four e4m3 numbers as f16, exactly: elements 0 and 1 in low, 2 and 3 in high.
__device__ __forceinline__ void e4m3_to_f16(std::uint32_t bytes, std::uint32_t& low, std::uint32_t& high) {
#if __CUDA_ARCH__ >= 890
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.rn.f16x2.e4m3x2 %0, l; cvt.rn.f16x2.e4m3x2 %1, h;}" : "=r"(low), "=r"(high) : "r"(bytes));
#else
  // The exponents' biases differ by 8. (NaN becomes 480.)
  const auto widen = [](std::uint32_t halves) {
    std::uint32_t d;
    const std::uint32_t moved = (halves & 0x80008000U) | (halves & 0x7f007f00U) >> 1;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(moved), "r"(0x5c005c00U));
    return d;
  };
  low = widen(__byte_perm(bytes, 0, 0x1404));
  high = widen(__byte_perm(bytes, 0, 0x3424));
#endif
}

// Two numbers rounded to e4m3, the first in the low byte; beyond 448: 448, but NaN stays. Only for products of sm_90a.
__device__ __forceinline__ std::uint32_t to_e4m3(float first, float second) {
  std::uint32_t bytes = 0;
#if __CUDA_ARCH__ >= 890
  asm("{.reg .b16 h; cvt.rn.satfinite.e4m3x2.f32 h, %1, %2; cvt.u32.u16 %0, h;}" : "=r"(bytes) : "f"(second), "f"(first));
#endif
  return bytes;
}

// The word that begins `bits` into the two: modulo 32, and up to 32.
__device__ __forceinline__ std::uint32_t funnel_shift(std::uint32_t low, std::uint32_t high, std::uint32_t bits) {
  return __funnelshift_r(low, high, bits);
}
__device__ __forceinline__ std::uint32_t funnel_shift_clamped(std::uint32_t low, std::uint32_t high, std::uint32_t bits) {
  return __funnelshift_rc(low, high, bits);
}

}  // namespace gossamer::ptx
