// Parts of sparse weights, and weights put together.
#include <cstring>
#include <string>

#include "sparse/bits.h"
#include "sparse/sparse_weight.h"

namespace gossamer {
namespace {

std::byte* at_value(const Tensor& values, std::int64_t index) {
  return static_cast<std::byte*>(values.raw()) + bytes_of(values.dtype(), index);
}

void copy_values(std::byte* to, const Tensor& values, std::int64_t first, std::int64_t count) {
  if (count > 0) std::memcpy(to, at_value(values, first), static_cast<std::size_t>(bytes_of(values.dtype(), count)));
}

// i4 values from any place of a row to a byte's beginning; an odd number of them gets a 0 behind it.
void copy_nibbles(std::byte* to, const Tensor& values, std::int64_t first, std::int64_t count) {
  const auto* from = static_cast<const std::uint8_t*>(values.raw());
  for (std::int64_t i = 0; i < count; i += 2) {
    const int low = nibble_at(from, first + i) & 15;
    const int high = i + 1 < count ? nibble_at(from, first + i + 1) & 15 : 0;
    *to++ = static_cast<std::byte>(low | high << 4);
  }
}

void copy_scales(const Tensor& to, const Tensor& from) {
  for (std::int64_t r = 0; r < from.size(0); ++r)
    std::memcpy(to.row<float>(r), from.row<float>(r), static_cast<std::size_t>(from.size(1)) * sizeof(float));
}

}  // namespace

OwnedSparseWeight slice_rows(const SparseWeight& weight, std::int64_t begin, std::int64_t end, Allocator& allocator) {
  require(0 <= begin && begin <= end && end <= weight.rows, "slice_rows: [" + std::to_string(begin) + ", " + std::to_string(end) +
                                                                ") is not inside " + std::to_string(weight.rows) + " rows");
  const auto* row_offsets = weight.row_offsets.data<const std::int64_t>();
  const std::int64_t first = row_offsets[begin];
  const std::int64_t nnz = row_offsets[end] - first;
  OwnedSparseWeight result(allocator, end - begin, weight.cols, nnz, weight.dtype(), weight.group);
  const auto mask_bytes = static_cast<std::size_t>(weight.mask_stride());
  std::memcpy(result.mask.data(), weight.mask.data<std::uint8_t>() + static_cast<std::size_t>(begin) * mask_bytes, result.mask.bytes());
  copy_values(static_cast<std::byte*>(result.values.data()), weight.values, first, nnz);
  auto* out_offsets = static_cast<std::int64_t*>(result.row_offsets.data());
  for (std::int64_t r = begin; r <= end; ++r) out_offsets[r - begin] = row_offsets[r] - first;
  if (weight.group > 0) copy_scales(result.view.scales, weight.scales.rows(begin, end));
  return result;
}

OwnedSparseWeight slice_cols(const SparseWeight& weight, std::int64_t begin, std::int64_t end, Allocator& allocator) {
  require(0 <= begin && begin <= end && end <= weight.cols, "slice_cols: [" + std::to_string(begin) + ", " + std::to_string(end) +
                                                                ") is not inside " + std::to_string(weight.cols) + " columns");
  const ScaleRange scale_range = scales_of_columns(weight.group, weight.cols, begin, end);
  const auto* mask = weight.mask.data<const std::uint8_t>();
  const auto* row_offsets = weight.row_offsets.data<const std::int64_t>();
  const std::int64_t stride = weight.mask_stride();
  std::int64_t nnz = 0;
  for (std::int64_t r = 0; r < weight.rows; ++r) nnz += stored_values(weight.dtype(), count_bits(mask + r * stride, stride, begin, end));

  OwnedSparseWeight result(allocator, weight.rows, end - begin, nnz, weight.dtype(), scale_range.group);
  const std::int64_t out_stride = result.view.mask_stride();
  auto* out_mask = static_cast<std::uint8_t*>(result.mask.data());
  auto* out_offsets = static_cast<std::int64_t*>(result.row_offsets.data());
  out_offsets[0] = 0;
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    const std::uint8_t* row = mask + r * stride;
    std::int64_t kept = 0;
    for_each_word(row, stride, begin, end, [&](std::int64_t c, std::int64_t count, std::uint64_t word) {
      store_bits(out_mask + r * out_stride, c - begin, count, word);
      kept += count_ones(word);
    });
    // A row's kept values of a column range lie next to each other.
    const std::int64_t first = row_offsets[r] + count_bits(row, stride, 0, begin);
    const auto copy = weight.dtype() == DType::i4 ? copy_nibbles : copy_values;
    copy(at_value(result.view.values, out_offsets[r]), weight.values, first, kept);
    out_offsets[r + 1] = out_offsets[r] + stored_values(weight.dtype(), kept);
  }
  if (weight.group > 0) copy_scales(result.view.scales, weight.scales.slice(1, scale_range.begin, scale_range.end));
  return result;
}

OwnedSparseWeight concat_rows(const std::vector<SparseWeight>& parts, Allocator& allocator, ThreadPool& pool) {
  require(!parts.empty(), "concat_rows: needs at least one weight");
  std::int64_t rows = 0;
  std::int64_t nnz = 0;
  for (const SparseWeight& part : parts) {
    require(part.cols == parts[0].cols && part.dtype() == parts[0].dtype() && part.group == parts[0].group,
            "concat_rows: the weights differ in columns, dtype or scale group");
    rows += part.rows;
    nnz += part.nnz();
  }
  OwnedSparseWeight result(allocator, rows, parts[0].cols, nnz, parts[0].dtype(), parts[0].group);
  auto* mask = static_cast<std::byte*>(result.mask.data());
  auto* offsets = static_cast<std::int64_t*>(result.row_offsets.data());
  std::int64_t first = 0;
  std::int64_t row = 0;
  *offsets = 0;
  for (const SparseWeight& part : parts) {
    copy_bytes(mask, part.mask.raw(), part.mask.nbytes(), pool);
    copy_bytes(at_value(result.view.values, first), part.values.raw(), part.values.nbytes(), pool);
    mask += part.mask.nbytes();
    const auto* part_offsets = part.row_offsets.data<const std::int64_t>();
    for (std::int64_t r = 1; r <= part.rows; ++r) offsets[row + r] = first + part_offsets[r];
    if (part.group > 0) copy_scales(result.view.scales.rows(row, row + part.rows), part.scales);
    row += part.rows;
    first += part.nnz();
  }
  return result;
}

}  // namespace gossamer
