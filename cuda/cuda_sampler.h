// Ops::sample on the GPU: parameters up, one kernel, results down.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda_memory.h"
#include "ops/ops.h"

namespace gossamer::cuda {

class CudaSampler {
 public:
  CudaSampler(Allocator& device, Allocator& pinned) : device_in_(device), device_out_(device), host_in_(pinned), host_out_(pinned) {}
  // Complete on return.
  void sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result, cudaStream_t stream);

 private:
  Workspace device_in_, device_out_, host_in_, host_out_;
};

}  // namespace gossamer::cuda
