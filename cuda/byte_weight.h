// Weights that stay 8 bits wide on the device: bitmap tiles of i8 or e4m3 (cpp/sparse/FORMAT.md), a full mask where nothing is pruned.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "core/thread_pool.h"
#include "cuda_memory.h"
#include "ops/ops.h"
#include "sparse/tiled_weight.h"

namespace gossamer::cuda {

class ByteTiles final : public PackedWeight {
 public:
  // Whether values of this dtype and scale group can be kept so; others become halves.
  static bool holds(DType dtype, std::int64_t group, std::int64_t cols);

  ByteTiles(const SparseWeight& weight, Allocator& allocator, ThreadPool& pool);
  ByteTiles(const RandomWeight& weight, Allocator& allocator, cudaStream_t stream);  // made on the device
  std::int64_t rows() const override { return view_.rows; }
  std::int64_t cols() const override { return view_.cols; }
  std::int64_t nbytes() const override { return view_.nbytes(); }
  DType dtype() const override { return view_.dtype; }
  bool is_sparse() const override { return true; }
  std::string format() const override { return "bitmap tiles of " + std::string(name_of(view_.dtype)); }
  const TiledWeight& view() const { return view_; }

 private:
  Buffer data_, offsets_, scales_;
  TiledWeight view_;  // on the device
};

}  // namespace gossamer::cuda
