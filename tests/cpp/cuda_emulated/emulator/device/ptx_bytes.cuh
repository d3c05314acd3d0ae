// The wrappers of cuda/device/ptx_bytes.cuh, with the same names and meaning.
#pragma once

#include <algorithm>
#include <array>

#include "device/ptx.cuh"

namespace gossamer::ptx {

inline void load_shared_u32x3(std::uint32_t (&v)[3], std::uint32_t address) {
  for (std::uint32_t i = 0; i < 3; ++i) v[i] = load_shared_u32(address + 4 * i);
}
// What every lane of the warp brings, by lane.
using Operands = std::array<std::uint32_t, 6>;
inline std::array<Operands, 32> warp_exchange(const Operands& mine) {
  static std::array<Operands, 1024> brought;  // of the block that runs
  const unsigned thread = threadIdx.x, first = thread / 32 * 32;
  brought[thread] = mine;
  __syncwarp();
  std::array<Operands, 32> all;
  std::copy_n(brought.begin() + first, 32, all.begin());
  __syncwarp();
  return all;
}
inline std::uint32_t warp_max(std::uint32_t value) {
  for (const Operands& of : warp_exchange({value})) value = std::max(value, of[0]);
  return value;
}
inline std::int32_t byte_at(std::uint32_t word, unsigned i) { return static_cast<std::int8_t>(word >> (8 * i)); }
// Fragments as in PTX's "matrix fragments for mma.m16n8k32" of 8-bit integers.
inline void mma_16x8x32_s8(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  const unsigned lane = threadIdx.x % 32;
  const std::array<Operands, 32> all = warp_exchange({a[0], a[1], a[2], a[3], b0, b1});
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + 8 * (i / 2), n = 2 * (lane % 4) + i % 2;
    std::int32_t sum = std::bit_cast<std::int32_t>(c[i]);
    for (unsigned k = 0; k < 32; ++k) {
      const std::uint32_t of_a = all[row % 8 * 4 + k % 16 / 4][row / 8 + 2 * (k / 16)], of_b = all[n * 4 + k % 16 / 4][4 + k / 16];
      sum += byte_at(of_a, k % 4) * byte_at(of_b, k % 4);
    }
    c[i] = std::bit_cast<float>(sum);
  }
}
inline float half_at(std::uint32_t pair, int i) { return to_float(Float16{static_cast<std::uint16_t>(pair >> (16 * i))}); }
inline std::uint32_t pair_of(float low, float high) {
  return to_float16(low).bits | static_cast<std::uint32_t>(to_float16(high).bits) << 16;
}
inline void e4m3_to_f16(std::uint32_t bytes, std::uint32_t& low, std::uint32_t& high) {
  const auto value = [&](int i) { return to_float(Float8E4M3{static_cast<std::uint8_t>(bytes >> (8 * i))}); };
  low = pair_of(value(0), value(1));
  high = pair_of(value(2), value(3));
}
inline std::uint32_t to_e4m3(float first, float second) {
  return to_float8_e4m3(first).bits | static_cast<std::uint32_t>(to_float8_e4m3(second).bits) << 8;
}
inline std::uint32_t add_f16x2(std::uint32_t a, std::uint32_t b) {
  return pair_of(half_at(a, 0) + half_at(b, 0), half_at(a, 1) + half_at(b, 1));
}
inline std::uint32_t funnel_shift(std::uint32_t low, std::uint32_t high, std::uint32_t bits) {
  return static_cast<std::uint32_t>((std::uint64_t{high} << 32 | low) >> (bits & 31U));
}
inline std::uint32_t funnel_shift_clamped(std::uint32_t low, std::uint32_t high, std::uint32_t bits) {
  return static_cast<std::uint32_t>((std::uint64_t{high} << 32 | low) >> std::min(bits, 32U));
}

}  // namespace gossamer::ptx
