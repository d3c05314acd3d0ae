// Packs weights on the device while the host goes on: through pinned memory, by all cores, and then by a kernel. What a weight needs on its
// way is given back by release().
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <memory>
#include <optional>

#include "core/thread_pool.h"
#include "cuda_memory.h"
#include "cuda_weight.h"

namespace gossamer::cuda {

class WeightPacker {
 public:
  WeightPacker(Allocator& device, Allocator& pinned, ThreadPool& pool) : device_(device), pinned_(pinned), pool_(pool) {}
  ~WeightPacker();
  WeightPacker(const WeightPacker&) = delete;
  WeightPacker& operator=(const WeightPacker&) = delete;

  // Values must be of the tiles' type. The weight's memory may change on return.
  std::unique_ptr<SparseTiles> pack_bitmap(const SparseWeight& weight, cudaStream_t stream);
  // Contiguous, with rows of a multiple of 16 bytes.
  std::unique_ptr<DenseWeight> pack_dense(const Tensor& dense, cudaStream_t stream);
  // The host's memory may change on return.
  void upload(void* to, const void* from, std::size_t bytes, cudaStream_t stream);
  // Once the stream's work is done.
  void release();

 private:
  struct Slot {
    Buffer memory;
    cudaEvent_t is_free = nullptr;
  };
  // Memory of the device that the next weight may use as soon as this one is packed: the stream orders them.
  struct Scratch {
    explicit Scratch(Allocator& device) : mask(device), values(device), row_offsets(device), before(device) {}
    Workspace mask, values, row_offsets, before;
  };

  Allocator& device_;
  Allocator& pinned_;
  ThreadPool& pool_;
  std::array<Slot, 3> slots_;
  std::size_t next_ = 0;
  std::optional<Scratch> scratch_;
};

}  // namespace gossamer::cuda
