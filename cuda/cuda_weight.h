// The packed weights of the CUDA backend. Values are converted to the activations' type, which is what the tensor cores multiply.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/thread_pool.h"
#include "cuda_memory.h"
#include "ops/ops.h"
#include "plan/spmm_plan.h"

namespace gossamer::cuda {

// [m, k], rows stride() apart: a multiple of 8 elements, zeros behind k.
class DenseWeight final : public PackedWeight {
 public:
  DenseWeight(const Tensor& dense, DType dtype, Allocator& allocator, ThreadPool& pool);
  DenseWeight(const RandomWeight& weight, Allocator& allocator, cudaStream_t stream);
  // On the device already, rows of a multiple of 8 elements.
  explicit DenseWeight(OwnedTensor values) : rows_(values.view.size(0)), cols_(values.view.size(1)), values_(std::move(values)) {}
  std::int64_t rows() const override { return rows_; }
  std::int64_t cols() const override { return cols_; }
  std::int64_t nbytes() const override { return values_.view.nbytes(); }
  DType dtype() const override { return values_.view.dtype(); }
  bool is_sparse() const override { return false; }
  std::string format() const override { return "dense"; }
  Tensor table() const override { return values_.view.slice(1, 0, cols_); }
  const void* data() const { return values_.view.raw(); }
  std::int64_t stride() const { return values_.view.size(1); }

 private:
  std::int64_t rows_, cols_;
  OwnedTensor values_;
};

// Tiles (cpp/sparse/FORMAT.md).
class SparseTiles final : public PackedWeight {
 public:
  SparseTiles(const SparseWeight& weight, TileFormat format, DType dtype, Allocator& allocator, ThreadPool& pool);
  // Bitmap tiles, made on the device.
  SparseTiles(const RandomWeight& weight, Allocator& allocator, cudaStream_t stream);
  // On the device already.
  SparseTiles(Buffer data, Buffer offsets, const TiledWeight& view) : data_(std::move(data)), offsets_(std::move(offsets)), view_(view) {}
  std::int64_t rows() const override { return view_.rows; }
  std::int64_t cols() const override { return view_.cols; }
  std::int64_t nbytes() const override { return view_.nbytes(); }
  DType dtype() const override { return view_.dtype; }
  bool is_sparse() const override { return true; }
  std::string format() const override { return std::string(name_of(view_.format)) + " tiles"; }
  const TiledWeight& view() const { return view_; }

 private:
  Buffer data_, offsets_;
  TiledWeight view_;  // on the device
};

}  // namespace gossamer::cuda
