// The wrappers of cuda/device/ptx.cuh that the emulated kernels use, with the same names and meaning.
#pragma once

#include <bit>
#include <cstring>

#include "emulator.h"

namespace gossamer {
extern std::uint8_t shared[];  // a block's dynamic shared memory
}

namespace gossamer::ptx {

inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(static_cast<const std::uint8_t*>(pointer) - gossamer::shared);
}
inline std::uint32_t byte_permute(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
  const std::uint64_t bytes = std::uint64_t{b} << 32 | a;
  std::uint32_t d = 0;
  for (int i = 0; i < 4; ++i) d |= static_cast<std::uint32_t>(bytes >> (8 * (selector >> (4 * i) & 7U)) & 0xffU) << (8 * i);
  return d;
}
inline std::uint32_t dot_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  for (int i = 0; i < 32; i += 8) c += (a >> i & 0xffU) * (b >> i & 0xffU);
  return c;
}
inline std::uint32_t dot_halves(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  return c + (a & 0xffffU) * (b & 0xffU) + (a >> 16) * (b >> 8 & 0xffU);
}

template <class T>
T load_shared(std::uint32_t address) {
  T value;
  std::memcpy(&value, emulator::shared_read(address, sizeof value), sizeof value);
  return value;
}
template <class T>
void store_shared(std::uint32_t address, const T& value) {
  std::memcpy(emulator::shared_write(address, sizeof value), &value, sizeof value);
}
inline std::uint32_t load_shared_u16(std::uint32_t address) { return load_shared<std::uint16_t>(address); }
inline std::uint32_t load_shared_u16_next(std::uint32_t address) { return load_shared<std::uint16_t>(address + 2); }
inline std::uint32_t load_shared_u32(std::uint32_t address) { return load_shared<std::uint32_t>(address); }
inline uint4 load_shared_16(std::uint32_t address) { return load_shared<uint4>(address); }
inline void load_shared_u32x4(std::uint32_t (&v)[4], std::uint32_t address) {
  std::memcpy(v, emulator::shared_read(address, sizeof v), sizeof v);
}
inline void store_shared_u16(std::uint32_t address, std::uint32_t low_half) { store_shared(address, static_cast<std::uint16_t>(low_half)); }
inline void store_shared_u32(std::uint32_t address, std::uint32_t value) { store_shared(address, value); }
inline void zero_shared_16bytes(std::uint32_t address) { store_shared(address, uint4{0, 0, 0, 0}); }

inline std::uint32_t warp_sum(std::uint32_t value) { return emulator::warp_collective(emulator::Collective::sum, value, 0); }
inline std::uint32_t scan_step(std::uint32_t value, int distance) {
  return emulator::warp_collective(emulator::Collective::scan, value, distance);
}

inline std::uint32_t warp_inclusive_scan(std::uint32_t value) {
  for (int distance = 1; distance < 32; distance *= 2) value = scan_step(value, distance);
  return value;
}
template <bool kIsBf16>
void mma_16x8x16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  emulator::mma(c, a, b0, b1, kIsBf16);
}
template <bool kIsBf16, int kSelector>
void mma_sparse_16x8x32(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[4], std::uint32_t metadata) {
  emulator::mma_sparse(c, a, b, metadata, kSelector, kIsBf16);
}

inline void barrier_init(std::uint32_t barrier, std::uint32_t arrivals) { emulator::barrier_init(barrier, arrivals); }
inline void barrier_init_fence() {}
inline void barrier_expect(std::uint32_t barrier, std::uint32_t bytes) { emulator::barrier_arrive(barrier, bytes); }
inline void barrier_arrive(std::uint32_t barrier) { emulator::barrier_arrive(barrier, 0); }
inline void barrier_wait(std::uint32_t barrier, std::uint32_t parity) { emulator::barrier_wait(barrier, parity); }
inline void bulk_copy(std::uint32_t shared, const void* global, std::uint32_t bytes, std::uint32_t barrier) {
  emulator::bulk_copy(shared, global, bytes, barrier);
}
inline void bulk_copy_reused(std::uint32_t shared, const void* global, std::uint32_t bytes, std::uint32_t barrier) {
  emulator::bulk_copy(shared, global, bytes, barrier);
}

inline void copy_async_16(std::uint32_t shared, const void* global) { emulator::copy_async_16(shared, global); }
inline void copy_async_commit() { emulator::copy_async_commit(); }
template <int kPending>
void copy_async_wait() {
  emulator::copy_async_wait(kPending);
}

inline void fence_shared_for_copies() {}

inline void launch_dependents() {}
inline void wait_for_previous_grid() {}
inline std::uint32_t atomic_add_release_acquire(std::uint32_t* address, std::uint32_t value) {
  const std::uint32_t old = *address;
  *address += value;
  return old;
}
inline uint4 load_global_16(const void* address) {
  uint4 v;
  std::memcpy(&v, address, sizeof v);
  return v;
}

}  // namespace gossamer::ptx
