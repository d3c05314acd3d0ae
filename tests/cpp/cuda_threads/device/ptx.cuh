// What exchange.cuh needs of cuda/device/ptx.cuh, for threads of the host: words are written one by one and out of order.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace gossamer::ptx {

inline void store_system_16(void* address, const std::uint32_t (&v)[4]) {
  auto* words = static_cast<std::uint32_t*>(address);
  for (const int i : {2, 0, 3, 1}) std::atomic_ref(words[i]).store(v[i], std::memory_order_relaxed);
}
inline void load_system_16(std::uint32_t (&v)[4], const void* address) {
  auto* words = static_cast<std::uint32_t*>(const_cast<void*>(address));
  for (int i = 0; i < 4; ++i) v[i] = std::atomic_ref(words[i]).load(std::memory_order_relaxed);
  std::this_thread::yield();  // who waits lets others run
}
inline std::uint32_t load_system_u32(const std::uint32_t* address) {
  return std::atomic_ref(*const_cast<std::uint32_t*>(address)).load(std::memory_order_relaxed);
}

}  // namespace gossamer::ptx
