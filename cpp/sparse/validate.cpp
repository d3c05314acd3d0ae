#include <cmath>

#include "sparse/bits.h"
#include "sparse/sparse_weight.h"

namespace gossamer {
namespace {

// Whose weight it is, for messages.
struct Origin {
  std::string_view name;
  std::string_view file;
};

[[noreturn]] void fail(std::string_view what, Origin origin, std::string field, std::string expected, std::string found) {
  CheckpointFault fault;
  fault.file = printable(origin.file);
  fault.tensor = printable(origin.name);
  fault.field = std::move(field);
  fault.expected = std::move(expected);
  fault.found = std::move(found);
  fault.fix = "The weight is damaged or was written by a faulty tool: convert or download the model again.";
  throw CheckpointError(what, std::move(fault));
}

void validate_part(const Tensor& part, Origin origin, const char* field, DType dtype, std::initializer_list<std::int64_t> shape) {
  std::byte anything{};
  const Tensor expected(&anything, dtype, shape);
  bool matches = part.defined() && part.dtype() == dtype && part.rank() == expected.rank() && part.is_contiguous() &&
                 part.device().kind == Device::Kind::cpu;
  for (int axis = 0; matches && axis < part.rank(); ++axis) matches = part.size(axis) == expected.size(axis);
  if (!matches) fail("a part of a sparse weight has the wrong form", origin, field, "contiguous " + expected.to_string(), part.to_string());
}

// A scale for every group of columns, all of them numbers.
void validate_scales(const Tensor& scales, std::int64_t group, std::int64_t rows, std::int64_t cols, Origin origin) {
  if (group <= 0 || group > cols || (group != cols && group % kScaleGroupUnit != 0)) {
    fail("so many columns cannot share a scale", origin, "scale_group",
         "all " + std::to_string(cols) + ", or fewer and a multiple of " + std::to_string(kScaleGroupUnit), std::to_string(group));
  }
  const std::int64_t groups = num_scale_groups(cols, group);
  validate_part(scales, origin, "scale", DType::f32, {rows, groups});
  const auto* values = scales.data<const float>();
  for (std::int64_t i = 0; i < rows * groups; ++i) {
    if (!std::isfinite(values[i])) {
      fail("a scale is not finite", origin, "scale row " + std::to_string(i / groups), "a number", std::to_string(values[i]));
    }
  }
}

}  // namespace

void validate(const ScaledMatrix& matrix, std::string_view name, std::string_view file) {
  const Origin origin{name, file};
  const Tensor& values = matrix.values;
  if (!values.defined() || values.rank() != 2 || !is_scaled(values.dtype()) || values.device().kind != Device::Kind::cpu) {
    fail("the values of a scaled weight have the wrong form", origin, "values", "an i8, e4m3 or i4 matrix", values.to_string());
  }
  validate_scales(matrix.scales, matrix.group, matrix.rows(), matrix.cols(), origin);
  if (values.dtype() != DType::i4 || matrix.cols() % 2 == 0) return;
  for (std::int64_t r = 0; r < matrix.rows(); ++r) {
    if (nibble_at(static_cast<const std::uint8_t*>(values.select(0, r).raw()), matrix.cols()) != 0) {
      fail("the unused half of a row's last byte is not 0", origin, "values row " + std::to_string(r), "0", "another");
    }
  }
}

void validate(const SparseWeight& weight, std::string_view name, std::string_view file) {
  const Origin origin{name, file};
  if (weight.rows < 0 || weight.cols < 0) {
    fail("a sparse weight has a negative size", origin, "shape", "sizes >= 0",
         "[" + std::to_string(weight.rows) + ", " + std::to_string(weight.cols) + "]");
  }
  if (!weight.values.defined() || !(is_floating(weight.dtype()) || is_scaled(weight.dtype()))) {
    fail("the values of a sparse weight have the wrong dtype", origin, "values", "f32, f16 or bf16; i8, e4m3 or i4 with scales",
         weight.values.to_string());
  }
  if (is_scaled(weight.dtype())) {
    validate_scales(weight.scales, weight.group, weight.rows, weight.cols, origin);
  } else if (weight.scales.defined() || weight.group != 0) {
    fail("floating values have no scales", origin, "scale", "none", weight.scales.to_string());
  }
  const std::int64_t nnz = weight.nnz();
  validate_part(weight.values, origin, "values", weight.dtype(), {nnz});
  validate_part(weight.mask, origin, "bitmask", DType::u8, {weight.rows, weight.mask_stride()});
  validate_part(weight.row_offsets, origin, "row_offsets", DType::i64, {weight.rows + 1});

  const auto* row_offsets = weight.row_offsets.data<const std::int64_t>();
  const std::int64_t stride = weight.mask_stride();
  const int used_bits = static_cast<int>(weight.cols % 8);
  if (row_offsets[0] != 0) fail("row offsets must start at 0", origin, "row_offsets[0]", "0", std::to_string(row_offsets[0]));
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    const std::uint8_t* row = weight.mask.data<const std::uint8_t>() + r * stride;
    if (used_bits != 0 && (row[stride - 1] >> used_bits) != 0) {
      fail("pad bits of a mask row are set", origin, "bitmask row " + std::to_string(r), "0 beyond column " + std::to_string(weight.cols),
           "last byte " + std::to_string(row[stride - 1]));
    }
    const std::int64_t kept = count_bits(row, stride, 0, weight.cols);
    const std::int64_t stored = stored_values(weight.dtype(), kept);
    // row_offsets[r] was checked by the row before, so this sum cannot overflow: it is at most the number of mask bits.
    if (row_offsets[r + 1] != row_offsets[r] + stored) {
      fail("the mask of a row and its values disagree", origin, "row_offsets[" + std::to_string(r + 1) + "]",
           std::to_string(row_offsets[r] + stored) + " (row " + std::to_string(r) + " begins at " + std::to_string(row_offsets[r]) +
               " and its mask keeps " + std::to_string(kept) + ")",
           std::to_string(row_offsets[r + 1]));
    }
    if (stored != kept && row_offsets[r + 1] <= nnz &&
        nibble_at(static_cast<const std::uint8_t*>(weight.values.raw()), row_offsets[r] + kept) != 0) {
      fail("the unused half of a row's last byte is not 0", origin, "values row " + std::to_string(r), "0", "another");
    }
  }
  if (row_offsets[weight.rows] != nnz) {
    fail("row offsets must end at the number of values", origin, "row_offsets[" + std::to_string(weight.rows) + "]", std::to_string(nnz),
         std::to_string(row_offsets[weight.rows]));
  }
}

}  // namespace gossamer
