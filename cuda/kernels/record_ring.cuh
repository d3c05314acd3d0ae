// Rings of records in shared memory: bulk copies that complete on an mbarrier (sm_90), or cp.async groups (sm_80).
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

// sm_90: four slots that two warps read and one of them (fills = true) fills. When a slot may be filled again is the caller's business.
class SharedRecordRing {
 public:
  static constexpr int kStages = 4, kBarrierBytes = 8 * kStages;

  __device__ SharedRecordRing(std::uint32_t slots, std::uint32_t slot_bytes, std::uint32_t barriers, bool fills, int lane)
      : slots_(slots), slot_bytes_(slot_bytes), barriers_(barriers), pushes_(fills && lane == 0) {
    if (pushes_) {
      for (int s = 0; s < kStages; ++s) ptx::barrier_init(barriers + 8 * s, 1);
    }
    ptx::barrier_init_fence();
    __syncwarp();
  }

  // Where the record `ahead` of the one at the front goes. push() as in RecordRing.
  struct Slot {
    std::uint32_t slot, barrier;
    bool pushes;
    __device__ __forceinline__ void push(const std::uint8_t* record, std::uint32_t bytes) {
      if (pushes && bytes != 0) {
        ptx::barrier_expect(barrier, bytes);
        ptx::bulk_copy(slot, record, bytes, barrier);
      }
    }
  };
  __device__ __forceinline__ Slot ahead(int records) const {
    const std::uint32_t i = (taken_ + records) % kStages;
    return {slots_ + i * slot_bytes_, barriers_ + 8 * i, pushes_};
  }

  // Waits for the record at the front; its shared address.
  __device__ __forceinline__ std::uint32_t front() const {
    const std::uint32_t i = taken_ % kStages;
    ptx::barrier_wait(barriers_ + 8 * i, taken_ / kStages & 1);
    return slots_ + i * slot_bytes_;
  }
  __device__ __forceinline__ void advance() { ++taken_; }
  // Records taken so far.
  __device__ __forceinline__ std::uint32_t taken() const { return taken_; }

 private:
  std::uint32_t slots_, slot_bytes_, barriers_;
  bool pushes_;
  std::uint32_t taken_ = 0;
};

}  // namespace gossamer
