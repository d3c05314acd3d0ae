// The wrappers of cuda/device/ptx_wgmma.cuh that the emulated kernels use.
#pragma once

#include "device/ptx.cuh"

namespace gossamer::ptx {

template <int kCount>
void decrease_registers() {
  emulator::change_registers(kCount, false);
}
template <int kCount>
void increase_registers() {
  emulator::change_registers(kCount, true);
}
inline void named_barrier_sync(int id, int threads) { emulator::block_barrier(id, static_cast<unsigned>(threads)); }
inline void wgmma_fence() {}
inline void wgmma_commit() { emulator::wgmma_commit(); }
template <int kPending>
void wgmma_wait() {
  emulator::wgmma_wait(kPending);
}
inline std::uint64_t wgmma_descriptor(std::uint32_t shared, std::uint32_t k_stride, std::uint32_t n_stride) {
  return std::uint64_t{(shared & 0x3ffffU) >> 4} | std::uint64_t{k_stride >> 4} << 16 | std::uint64_t{n_stride >> 4} << 32;
}

template <bool kIsBf16>
struct WgmmaHalves {
  static constexpr emulator::Operands kOperands = kIsBf16 ? emulator::Operands::bf16 : emulator::Operands::f16;
};
struct WgmmaE4m3 {
  static constexpr emulator::Operands kOperands = emulator::Operands::e4m3;
};
inline void wgmma_settle(float& /*sum*/) {}
inline void wgmma_settle(std::int32_t& /*sum*/) {}
template <class Types, int kNTiles>
void wgmma_rs(float (*d)[4], const std::uint32_t (&a)[4], std::uint64_t b, int keeps = 1) {
  emulator::wgmma(d, a, b, kNTiles, Types::kOperands, keeps != 0);
}
template <int kNTiles>
void wgmma_rs_s8(std::int32_t (*d)[4], const std::uint32_t (&a)[4], std::uint64_t b) {
  emulator::wgmma(d, a, b, kNTiles, emulator::Operands::i8, true);
}

}  // namespace gossamer::ptx
