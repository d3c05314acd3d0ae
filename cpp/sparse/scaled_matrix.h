// A dense weight of small values and their scales: W[r, c] = values[r, c] * scales[r, c / group].
#pragma once

#include <string_view>
#include <vector>

#include "core/memory.h"
#include "core/tensor.h"

namespace gossamer {

// What the group size of a scale is a multiple of, unless the group is a whole row.
inline constexpr std::int64_t kScaleGroupUnit = 64;

constexpr std::int64_t num_scale_groups(std::int64_t cols, std::int64_t group) {
  return group == 0 ? 0 : cols / group + (cols % group != 0 ? 1 : 0);
}

// Views only.
struct ScaledMatrix {
  Tensor values;           // i8, e4m3 or i4 [rows, cols]; rows begin on a byte
  Tensor scales;           // f32 [rows, ceil(cols / group)]
  std::int64_t group = 0;  // columns that share a scale: cols (one scale a row), or a multiple of kScaleGroupUnit

  std::int64_t rows() const { return values.size(0); }
  std::int64_t cols() const { return values.size(1); }
  DType dtype() const { return values.dtype(); }
  std::int64_t nbytes() const { return rows() * bytes_of(dtype(), cols()) + scales.nbytes(); }
};

struct OwnedScaledMatrix {
  OwnedScaledMatrix() = default;
  // group = cols: one scale a row. Contents are undefined, but for the unused half of an odd row's last byte, which is 0.
  OwnedScaledMatrix(Allocator& allocator, DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t group);
  Buffer values;
  Buffer scales;
  ScaledMatrix view;
};

// Throws InvalidArgument unless `group` columns of `cols` may share a scale.
void require_scale_group(std::int64_t group, std::int64_t cols, std::string_view who);

// The scales of columns [begin, end), which must begin and end on a group unless that is the whole row (else InvalidArgument).
struct ScaleRange {
  std::int64_t begin, end;  // of the scales of a row
  std::int64_t group;       // of the columns alone
};
ScaleRange scales_of_columns(std::int64_t group, std::int64_t cols, std::int64_t begin, std::int64_t end);

// Throws CheckpointError naming `name` (and the file, if given): shapes, dtypes, group, and scales that are not finite.
void validate(const ScaledMatrix& matrix, std::string_view name, std::string_view file = {});

// Writes W, multiplied out in float and rounded to out's dtype. out: floating [rows, cols].
void scaled_to_dense(const ScaledMatrix& matrix, const Tensor& out);

// Columns [begin, end), which begin and end on a group, as views. Rows: slice values and scales.
ScaledMatrix column_slice(const ScaledMatrix& matrix, std::int64_t begin, std::int64_t end);
ScaledMatrix row_slice(const ScaledMatrix& matrix, std::int64_t begin, std::int64_t end);
// A copy of any views, stacked. All are of one dtype, cols and group.
OwnedScaledMatrix stack_rows(const std::vector<ScaledMatrix>& parts, Allocator& allocator);

}  // namespace gossamer
