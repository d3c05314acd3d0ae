// A warp's private ring of records in shared memory: bulk copies that complete on an mbarrier (sm_90), or cp.async groups (sm_80).
#pragma once

#include <cstdint>

#include "device/ptx.cuh"

namespace gossamer {

// Two slots. All state is in registers and moves by one addition, since the loop around it is bound by instructions.
class RecordRing {
 public:
  static constexpr int kStages = 2;
  static constexpr int kBarrierBytes = 8 * kStages;

  __device__ RecordRing(std::uint32_t slots, std::uint32_t slot_bytes, std::uint32_t barriers, int lane)
      : slot_(slots), slot_sum_(2 * slots + slot_bytes), barrier_(barriers), barrier_sum_(2 * barriers + 8), lane_(lane) {
    if (lane == 0) {
      for (int s = 0; s < kStages; ++s) ptx::barrier_init(barriers + 8 * s, 1);
    }
    ptx::barrier_init_fence();
    __syncwarp();
  }

  // Starts the copy of one record (a multiple of 16 bytes) into the slot at hand. bytes = 0: nothing, but keeps the count of sm_80 groups.
  __device__ __forceinline__ void push(const std::uint8_t* record, std::uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
    if (lane_ == 0 && bytes != 0) {
      ptx::barrier_expect(barrier_, bytes);
      ptx::bulk_copy(slot_, record, bytes, barrier_);
    }
#else
    for (std::uint32_t i = lane_ * 16; i < bytes; i += 512) ptx::copy_async_16(slot_ + i, record + i);
    ptx::copy_async_commit();
#endif
  }

  // Waits for the record in the slot at hand; its shared address.
  __device__ __forceinline__ std::uint32_t front() {
#if __CUDA_ARCH__ >= 900
    ptx::barrier_wait(barrier_, count_ >> 1 & 1);
#else
    ptx::copy_async_wait<kStages - 1>();
    __syncwarp();
#endif
    return slot_;
  }

  // Turns to the other slot.
  __device__ __forceinline__ void advance() {
    slot_ = slot_sum_ - slot_;
    barrier_ = barrier_sum_ - barrier_;
    ++count_;
  }
  // After both slots were filled for the first time: records are counted from here.
  __device__ __forceinline__ void start() { count_ = 0; }

 private:
  std::uint32_t slot_, slot_sum_, barrier_, barrier_sum_;
  int lane_;
  std::uint32_t count_ = 0;
};

}  // namespace gossamer
