#include "sparse/scaled_matrix.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "sparse/value_reader.h"

namespace gossamer {
namespace {

std::int64_t padded_cols(DType dtype, std::int64_t cols) { return dtype == DType::i4 ? (cols + 1) / 2 * 2 : cols; }

}  // namespace

void require_scale_group(std::int64_t group, std::int64_t cols, std::string_view who) {
  require(group > 0 && (group == cols || (group < cols && group % kScaleGroupUnit == 0)),
          std::string(who) + ": " + std::to_string(group) + " columns share a scale; that must be all " + std::to_string(cols) +
              " columns, or fewer and a multiple of " + std::to_string(kScaleGroupUnit));
}

ScaleRange scales_of_columns(std::int64_t group, std::int64_t cols, std::int64_t begin, std::int64_t end) {
  if (group == 0) return {0, 0, 0};
  if (group == cols) return {0, 1, end - begin};
  require(begin % group == 0 && (end == cols || end % group == 0), "columns [" + std::to_string(begin) + ", " + std::to_string(end) +
                                                                       ") do not begin and end on a group of " + std::to_string(group) +
                                                                       " columns that share a scale");
  return {begin / group, (end + group - 1) / group, std::min(group, end - begin)};
}

OwnedScaledMatrix::OwnedScaledMatrix(Allocator& allocator, DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t group) {
  require(rows > 0 && cols > 0, "a scaled matrix's sizes are positive");
  require(is_scaled(dtype), "a scaled matrix's values are i8, e4m3 or i4, not " + std::string(name_of(dtype)));
  require_scale_group(group, cols, "a scaled matrix");
  const std::int64_t width = padded_cols(dtype, cols);
  const std::int64_t groups = num_scale_groups(cols, group);
  values = Buffer(allocator, static_cast<std::size_t>(rows * bytes_of(dtype, width)));
  scales = Buffer(allocator, static_cast<std::size_t>(rows * groups) * sizeof(float));
  view = {values.view(dtype, {rows, width}).slice(1, 0, cols), scales.view(DType::f32, {rows, groups}), group};
  if (width == cols) return;
  const std::int64_t row_bytes = bytes_of(dtype, width);
  for (std::int64_t row = 0; row < rows; ++row) static_cast<std::uint8_t*>(values.data())[(row + 1) * row_bytes - 1] = 0;
}

void scaled_to_dense(const ScaledMatrix& matrix, const Tensor& out) {
  require(out.rank() == 2 && is_floating(out.dtype()) && out.size(0) == matrix.rows() && out.size(1) == matrix.cols(),
          "scaled_to_dense: out is " + out.to_string() + ", the matrix is " + matrix.values.to_string());
  visit_values(matrix.dtype(), [&](auto in_tag) {
    using In = typename decltype(in_tag)::type;
    visit_floating(out.dtype(), [&](auto out_tag) {
      using Out = typename decltype(out_tag)::type;
      for (std::int64_t r = 0; r < matrix.rows(); ++r) {
        ValueReader<In> values(matrix.values.select(0, r).raw(), 0);
        const float* scales = matrix.scales.row<const float>(r);
        Out* to = out.row<Out>(r);
        for (std::int64_t c = 0; c < matrix.cols(); ++c) to[c] = from_float<Out>(values.next() * scales[c / matrix.group]);
      }
    });
  });
}

ScaledMatrix row_slice(const ScaledMatrix& matrix, std::int64_t begin, std::int64_t end) {
  return {matrix.values.rows(begin, end), matrix.scales.rows(begin, end), matrix.group};
}

ScaledMatrix column_slice(const ScaledMatrix& matrix, std::int64_t begin, std::int64_t end) {
  const ScaleRange range = scales_of_columns(matrix.group, matrix.cols(), begin, end);
  return {matrix.values.slice(1, begin, end), matrix.scales.slice(1, range.begin, range.end), range.group};
}

OwnedScaledMatrix stack_rows(const std::vector<ScaledMatrix>& parts, Allocator& allocator) {
  require(!parts.empty(), "stack_rows: needs at least one matrix");
  std::int64_t rows = 0;
  for (const ScaledMatrix& part : parts) {
    require(part.cols() == parts[0].cols() && part.dtype() == parts[0].dtype() && part.group == parts[0].group,
            "stack_rows: the matrices differ in columns, dtype or group");
    rows += part.rows();
  }
  OwnedScaledMatrix result(allocator, parts[0].dtype(), rows, parts[0].cols(), parts[0].group);
  const auto value_bytes = static_cast<std::size_t>(bytes_of(parts[0].dtype(), parts[0].cols()));
  const auto scale_bytes = static_cast<std::size_t>(result.view.scales.size(1)) * sizeof(float);
  rows = 0;
  for (const ScaledMatrix& part : parts) {
    for (std::int64_t r = 0; r < part.rows(); ++r, ++rows) {
      std::memcpy(result.view.values.select(0, rows).raw(), part.values.select(0, r).raw(), value_bytes);
      std::memcpy(result.view.scales.row<float>(rows), part.scales.row<float>(r), scale_bytes);
    }
  }
  return result;
}

}  // namespace gossamer
