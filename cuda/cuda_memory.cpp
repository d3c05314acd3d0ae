#include "cuda_memory.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "core/error.h"
#include "status.h"

namespace gossamer::cuda {

void* CudaAllocator::allocate(std::size_t bytes) {
  check_status(cudaSetDevice(device_.index), "cudaSetDevice");
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, std::max<std::size_t>(bytes, 1));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky: the engine goes on
    std::size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    throw OutOfMemoryError(bytes, static_cast<std::int64_t>(free_bytes), device_.to_string(),
                           "Use a smaller or sparser model, lower max_num_batched_tokens, max_model_len or kv_cache_memory, or end what "
                           "else runs on this GPU");
  }
  check_status(status, "cudaMalloc");
  live_bytes_ += static_cast<std::int64_t>(bytes);
  ++live_blocks_;
  ++total_;
  return pointer;
}

void CudaAllocator::deallocate(void* pointer, std::size_t bytes) noexcept {
  if (pointer == nullptr) return;
  cudaSetDevice(device_.index);
  cudaFree(pointer);  // fails only when the context is lost, and the memory with it
  live_bytes_ -= static_cast<std::int64_t>(bytes);
  --live_blocks_;
}

void* PinnedAllocator::allocate(std::size_t bytes) {
  void* pointer = nullptr;
  const cudaError_t status = cudaMallocHost(&pointer, std::max<std::size_t>(bytes, 1));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw OutOfMemoryError(bytes, -1, "pinned host", "Free host memory, or raise the limit on locked memory (ulimit -l)");
  }
  check_status(status, "cudaMallocHost");
  live_bytes_ += static_cast<std::int64_t>(bytes);
  ++live_blocks_;
  ++total_;
  return pointer;
}

void PinnedAllocator::deallocate(void* pointer, std::size_t bytes) noexcept {
  if (pointer == nullptr) return;
  cudaFreeHost(pointer);
  live_bytes_ -= static_cast<std::int64_t>(bytes);
  --live_blocks_;
}

void* Workspace::reserve(std::size_t bytes, bool* grew) {
  const std::size_t held = this->bytes();
  if (grew != nullptr) *grew = bytes > held;
  if (bytes > held) buffers_.emplace_back(allocator_, std::max(bytes, 2 * held));
  return buffers_.empty() ? nullptr : buffers_.back().data();
}

}  // namespace gossamer::cuda
