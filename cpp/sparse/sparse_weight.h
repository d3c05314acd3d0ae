// The canonical sparse weight: device-neutral, the form on disk and between tools. Kernels pack it into their own layout at load.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/memory.h"
#include "core/tensor.h"
#include "core/thread_pool.h"
#include "sparse/scaled_matrix.h"

namespace gossamer {

// W[rows, cols] as a bit mask and the kept values in row-major order. Views only. A kept value may be zero: the mask is data.
// Values of a scaled dtype are multiplied by scales[row, column / group]. A row of i4 values takes an even number of them, so that rows
// begin on a byte: one that keeps an odd number has a 0 behind it, which row_offsets and nnz() count.
struct SparseWeight {
  std::int64_t rows = 0;   // m, output features
  std::int64_t cols = 0;   // k, input features
  Tensor mask;             // u8 [rows, ceil(cols/8)]; column c is bit c%8 of byte c/8; pad bits are 0
  Tensor values;           // f32, f16, bf16, or scaled: i8, e4m3, i4; [nnz]
  Tensor row_offsets;      // i64 [rows + 1]; row r's values are values[row_offsets[r], row_offsets[r+1])
  Tensor scales = {};      // f32 [rows, ceil(cols / group)]; undefined for floating values
  std::int64_t group = 0;  // columns that share a scale: cols, or a multiple of kScaleGroupUnit; 0 without scales

  std::int64_t nnz() const { return values.rank() == 0 ? 0 : values.size(0); }  // stored values
  std::int64_t mask_stride() const { return (cols + 7) / 8; }                   // bytes per row
  DType dtype() const { return values.dtype(); }
  double sparsity() const;      // zeros / (rows * cols)
  std::int64_t nbytes() const;  // mask + values + offsets + scales
};

// Stored values of a row that keeps `kept` weights.
constexpr std::int64_t stored_values(DType dtype, std::int64_t kept) { return dtype == DType::i4 ? (kept + 1) / 2 * 2 : kept; }

// A SparseWeight with the memory under it.
struct OwnedSparseWeight {
  OwnedSparseWeight() = default;
  // group: of a scaled dtype; 0 for floating values. Contents are undefined.
  OwnedSparseWeight(Allocator& allocator, std::int64_t rows, std::int64_t cols, std::int64_t nnz, DType dtype, std::int64_t group = 0);
  Buffer mask;
  Buffer values;
  Buffer row_offsets;
  Buffer scales;
  SparseWeight view;
};

// Keeps the elements whose value is not +0 or -0 (NaN is kept). dense: floating [rows, cols], any row stride.
OwnedSparseWeight sparse_from_dense(const Tensor& dense, Allocator& allocator);
// Likewise of scaled values: what is 0 is not kept.
OwnedSparseWeight sparse_from_scaled(const ScaledMatrix& dense, Allocator& allocator);
// Writes zeros and kept values (times their scales), converting to out's dtype. out: floating [rows, cols].
void sparse_to_dense(const SparseWeight& weight, const Tensor& out);

// Throws CheckpointError naming `name` (and the file, if given), the row, expected and found: shapes, dtypes, pad bits, per-row popcount
// against row_offsets, offsets that start at 0, never decrease and end at nnz, scales that are finite. Everything downstream relies on it.
void validate(const SparseWeight& weight, std::string_view name, std::string_view file = {});

// Rows [begin, end) / columns [begin, end) as a new weight. Columns need not be on byte boundaries; with scales they begin and end on a
// group (unless that is the whole row).
OwnedSparseWeight slice_rows(const SparseWeight& weight, std::int64_t begin, std::int64_t end, Allocator& allocator);
OwnedSparseWeight slice_cols(const SparseWeight& weight, std::int64_t begin, std::int64_t end, Allocator& allocator);
// Stacks weights of equal cols, dtype and group on top of each other (QKV, gate·up as one product).
OwnedSparseWeight concat_rows(const std::vector<SparseWeight>& parts, Allocator& allocator, ThreadPool& pool);

struct SparseStatistics {
  std::int64_t rows, cols, nnz;  // nnz: kept weights
  std::int64_t min_row_nnz, max_row_nnz, empty_rows, full_rows;
  double sparsity;
  std::vector<std::int64_t> row_density_histogram;  // 20 bins of row density over [0, 1]
};
SparseStatistics statistics(const SparseWeight& weight);

}  // namespace gossamer
