// What the weight loader reads, before it is packed: parts of logical matrices, stacked and converted where they differ.
#pragma once

#include <memory>
#include <vector>

#include "core/thread_pool.h"
#include "model/checkpoint.h"
#include "ops/ops.h"

namespace gossamer {

// This rank's part of one logical matrix, on the host, in the form that the checkpoint has.
struct WeightPart {
  enum class Form { dense, scaled, sparse };
  Form form = Form::dense;
  OwnedTensor dense;
  OwnedScaledMatrix scaled;
  OwnedSparseWeight bitmap;  // of floating or scaled values

  static Form form_of(const TensorRecord& record) {
    if (record.encoding == TensorRecord::Encoding::bitmap) return Form::sparse;
    return is_scaled(record.dtype) ? Form::scaled : Form::dense;
  }
  bool is_sparse() const { return form == Form::sparse; }
  DType dtype() const { return is_sparse() ? bitmap.view.dtype() : form == Form::scaled ? scaled.view.dtype() : dense.view.dtype(); }
  std::int64_t group() const { return is_sparse() ? bitmap.view.group : form == Form::scaled ? scaled.view.group : 0; }
  std::int64_t rows() const { return is_sparse() ? bitmap.view.rows : form == Form::scaled ? scaled.view.rows() : dense.view.size(0); }
  std::int64_t cols() const { return is_sparse() ? bitmap.view.cols : form == Form::scaled ? scaled.view.cols() : dense.view.size(1); }
};

// out = in, both contiguous, of any floating dtypes.
void convert_row(const Tensor& out, const Tensor& in);
// Host matrices of one shape; in may have any row stride.
void copy_matrix(const Tensor& out, const Tensor& in, ThreadPool& pool);

// The part as a dense matrix: scaled values become f32, which holds what they stand for.
OwnedTensor plain(WeightPart part, Allocator& host);
// Stacked on top of each other. Parts of one encoding are stacked as they are; a mixture becomes sparse. Different dtypes or scale groups
// meet in f32, which holds all of them.
std::unique_ptr<PackedWeight> pack_parts(Ops& ops, std::vector<WeightPart>& parts, Allocator& host, ThreadPool& pool);

}  // namespace gossamer
