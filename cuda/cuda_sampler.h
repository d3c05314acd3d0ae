// Ops::sample on the GPU: parameters up, one kernel, results down. Two may be under way, so that a step can begin before the one before it
// has been read.
#pragma once

#include <cuda_runtime_api.h>

#include <array>

#include "cuda_memory.h"
#include "ops/ops.h"

namespace gossamer::cuda {

class CudaSampler {
 public:
  CudaSampler(Allocator& device, Allocator& pinned) : slots_{Slot(device, pinned), Slot(device, pinned)} {}
  // tokens: i32 [rows] on the device, or undefined. result: written by finish().
  void begin(const Tensor& logits, const SampleBatch& batch, const SampleResult& result, const Tensor& tokens, cudaStream_t stream);
  // Waits for the oldest that was begun.
  void finish();

 private:
  struct Slot {
    Slot(Allocator& device, Allocator& pinned);
    ~Slot();
    Slot(const Slot&) = delete;
    Slot& operator=(const Slot&) = delete;

    Workspace device_in, device_out, host_in, host_out;
    cudaEvent_t done = nullptr;
    SampleResult result;
  };

  std::array<Slot, 2> slots_;
  std::size_t oldest_ = 0;
  std::size_t num_open_ = 0;
};

}  // namespace gossamer::cuda
