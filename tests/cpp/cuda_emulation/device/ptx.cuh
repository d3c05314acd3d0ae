// Stands in for cuda/device/ptx.cuh: the same wrappers, by what the PTX manual says the instructions do.
#pragma once

#include "emulation.h"

namespace gossamer::ptx {

// Addresses of shared memory count from the start of the dynamic one.
inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(static_cast<const std::uint8_t*>(pointer) - emulation::dynamic_memory.data());
}
inline std::uint8_t* at(std::uint64_t shared) { return emulation::dynamic_memory.data() + shared; }

inline void launch_dependents() {}
inline void wait_for_previous_grid() {}

inline void copy_async_16_or_zero(std::uint32_t shared, const void* global, bool is_there) {
  is_there ? std::memcpy(at(shared), global, 16) : std::memset(at(shared), 0, 16);
}
inline void copy_async_commit() {}
template <int kPending>
void copy_async_wait() {}

inline std::uint32_t warp_inclusive_scan(std::uint32_t value) {
  const emulation::Lanes& lanes = emulation::exchange(value);
  std::uint32_t sum = 0;
  for (int i = 0; i <= emulation::lane(); ++i) sum += static_cast<std::uint32_t>(lanes[static_cast<std::size_t>(i)][0]);
  return sum;
}

// Lane 8i + r names row r of matrix i.
inline void load_matrices(std::uint32_t (&v)[4], std::uint32_t address) {
  const emulation::Lanes& lanes = emulation::exchange(address);
  const int lane = emulation::lane();
  for (int i = 0; i < 4; ++i) std::memcpy(&v[i], at(lanes[static_cast<std::size_t>(8 * i + lane / 4)][0]) + 4 * (lane % 4), 4);
}
inline void load_matrices_transposed(std::uint32_t (&v)[4], std::uint32_t address) {
  const emulation::Lanes& lanes = emulation::exchange(address);
  const int lane = emulation::lane();
  for (int i = 0; i < 4; ++i) {
    std::uint16_t pair[2];
    for (int e = 0; e < 2; ++e)
      std::memcpy(pair + e, at(lanes[static_cast<std::size_t>(8 * i + 2 * (lane % 4) + e)][0]) + 2 * (lane / 4), 2);
    v[i] = pair[0] | std::uint32_t{pair[1]} << 16;
  }
}

template <bool kIsBf16>
float half_of(std::uint64_t word, int half) {
  const auto bits = static_cast<std::uint16_t>(word >> (16 * half));
  if constexpr (kIsBf16) {
    return __bfloat162float(__nv_bfloat16(__nv_bfloat16_raw{bits}));
  } else {
    return __half2float(__half(__half_raw{bits}));
  }
}

// mma.m16n8k16: lane 4g + t holds rows g and g + 8 of A and C, columns 2t, 2t + 1 (and those 8 further) of A, rows 2t.. of column g of B.
template <bool kIsBf16>
void mma_16x8x16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  const emulation::Lanes& lanes = emulation::exchange(a[0], a[1], a[2], a[3], b0, b1);
  const int lane = emulation::lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    float sum = c[i];
    for (int k = 0; k < 16; ++k) {
      const auto& a_words = lanes[static_cast<std::size_t>(row % 8 * 4 + k % 8 / 2)];
      const auto& b_words = lanes[static_cast<std::size_t>(column * 4 + k % 8 / 2)];
      sum += half_of<kIsBf16>(a_words[static_cast<std::size_t>(row / 8 + 2 * (k / 8))], k % 2) *
             half_of<kIsBf16>(b_words[static_cast<std::size_t>(4 + k / 8)], k % 2);
    }
    c[i] = sum;
  }
}

}  // namespace gossamer::ptx
