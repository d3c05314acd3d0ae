#include "sparse/sparse_weight.h"

#include <algorithm>
#include <cstring>

#include "sparse/bits.h"

namespace gossamer {
namespace {

void require_host_matrix(const Tensor& t, std::string_view who) {
  require(t.defined() && t.rank() == 2 && is_floating(t.dtype()) && t.device().kind == Device::Kind::cpu,
          std::string(who) + ": needs a floating host matrix, has " + t.to_string());
  require(t.stride(1) == 1 || t.size(1) <= 1, std::string(who) + ": the elements of a row must be contiguous");
}

// Bit i of the result = element i is neither +0 nor -0. Elements are compared as integers with the sign shifted out.
template <typename Bits>
std::uint64_t nonzero_word(const Bits* elements, std::int64_t count) {
  constexpr Bits kMagnitude = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);
  alignas(64) std::uint8_t flags[64] = {};
  for (std::int64_t i = 0; i < count; ++i) flags[i] = (elements[i] & kMagnitude) != 0 ? 1 : 0;
  std::uint64_t word = 0;
  for (int byte = 0; byte < 8; ++byte) {
    std::uint64_t eight = 0;
    std::memcpy(&eight, flags + 8 * byte, 8);
    word |= ((eight * 0x0102040810204080U) >> 56) << (8 * byte);  // gathers the low bit of each byte
  }
  return word;
}

template <typename Bits>
void build_mask(const Tensor& dense, std::uint8_t* mask, std::int64_t mask_stride, std::int64_t* row_offsets) {
  const std::int64_t rows = dense.size(0);
  const std::int64_t cols = dense.size(1);
  row_offsets[0] = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const Bits* elements = static_cast<const Bits*>(dense.raw()) + r * dense.stride(0);
    std::int64_t kept = 0;
    for (std::int64_t c = 0; c < cols; c += 64) {
      const std::int64_t count = std::min<std::int64_t>(64, cols - c);
      const std::uint64_t word = nonzero_word(elements + c, count);
      store_bits(mask + r * mask_stride, c, count, word);
      kept += count_ones(word);
    }
    row_offsets[r + 1] = row_offsets[r] + kept;
  }
}

template <typename Bits>
void gather_kept(const Tensor& dense, const std::uint8_t* mask, std::int64_t mask_stride, Bits* out) {
  for (std::int64_t r = 0; r < dense.size(0); ++r) {
    const Bits* elements = static_cast<const Bits*>(dense.raw()) + r * dense.stride(0);
    for_each_word(mask + r * mask_stride, mask_stride, 0, dense.size(1), [&](std::int64_t c, std::int64_t count, std::uint64_t word) {
      if (word == low_bits(count)) {
        out = std::copy_n(elements + c, count, out);
        return;
      }
      for (; word != 0; word &= word - 1) *out++ = elements[c + std::countr_zero(word)];
    });
  }
}

template <typename In, typename Out>
Out convert(In value) {
  if constexpr (std::is_same_v<In, Out>) {
    return value;
  } else {
    return from_float<Out>(to_float(value));
  }
}

template <typename In, typename Out>
void scatter_row(const std::uint8_t* mask, std::int64_t mask_stride, std::int64_t cols, const In* values, Out* out) {
  std::memset(static_cast<void*>(out), 0, static_cast<std::size_t>(cols) * sizeof(Out));
  for_each_word(mask, mask_stride, 0, cols, [&](std::int64_t c, std::int64_t count, std::uint64_t word) {
    if (word == low_bits(count)) {
      for (std::int64_t i = 0; i < count; ++i) out[c + i] = convert<In, Out>(*values++);
      return;
    }
    for (; word != 0; word &= word - 1) out[c + std::countr_zero(word)] = convert<In, Out>(*values++);
  });
}

// Values and mask bits of any floating dtype by their width alone.
template <typename F>
void visit_width(DType dtype, F&& f) {
  if (size_of(dtype) == 4) {
    f(std::uint32_t{});
  } else {
    f(std::uint16_t{});
  }
}

void set_views(OwnedSparseWeight& weight, std::int64_t rows, std::int64_t cols, std::int64_t nnz, DType dtype) {
  weight.view.rows = rows;
  weight.view.cols = cols;
  weight.view.mask = weight.mask.view(DType::u8, {rows, (cols + 7) / 8});
  weight.view.values = weight.values.view(dtype, {nnz});
  weight.view.row_offsets = weight.row_offsets.view(DType::i64, {rows + 1});
}

Buffer allocate_for(Allocator& allocator, DType dtype, std::initializer_list<std::int64_t> shape) {
  return Buffer(allocator, static_cast<std::size_t>(Tensor(nullptr, dtype, shape).nbytes()));
}

std::size_t value_bytes(const SparseWeight& weight, std::int64_t count) {
  return static_cast<std::size_t>(count) * size_of(weight.dtype());
}

}  // namespace

double SparseWeight::sparsity() const {
  const double elements = static_cast<double>(rows) * static_cast<double>(cols);
  return elements == 0.0 ? 0.0 : 1.0 - static_cast<double>(nnz()) / elements;
}

std::int64_t SparseWeight::nbytes() const { return mask.nbytes() + values.nbytes() + row_offsets.nbytes(); }

OwnedSparseWeight::OwnedSparseWeight(Allocator& allocator, std::int64_t rows, std::int64_t cols, std::int64_t nnz, DType dtype) {
  require(rows >= 0 && cols >= 0 && nnz >= 0, "a sparse weight's sizes are not negative");
  require(is_floating(dtype), "a sparse weight's values are f32, f16 or bf16, not " + std::string(name_of(dtype)));
  mask = allocate_for(allocator, DType::u8, {rows, (cols + 7) / 8});
  values = allocate_for(allocator, dtype, {nnz});
  row_offsets = allocate_for(allocator, DType::i64, {rows + 1});
  set_views(*this, rows, cols, nnz, dtype);
}

OwnedSparseWeight sparse_from_dense(const Tensor& dense, Allocator& allocator) {
  require_host_matrix(dense, "sparse_from_dense");
  const std::int64_t rows = dense.size(0);
  const std::int64_t cols = dense.size(1);
  const std::int64_t mask_stride = (cols + 7) / 8;
  OwnedSparseWeight weight;
  weight.mask = allocate_for(allocator, DType::u8, {rows, mask_stride});
  weight.row_offsets = allocate_for(allocator, DType::i64, {rows + 1});
  auto* mask = static_cast<std::uint8_t*>(weight.mask.data());
  auto* row_offsets = static_cast<std::int64_t*>(weight.row_offsets.data());
  visit_width(dense.dtype(), [&](auto width) {
    using Bits = decltype(width);
    build_mask<Bits>(dense, mask, mask_stride, row_offsets);
    weight.values = allocate_for(allocator, dense.dtype(), {row_offsets[rows]});
    gather_kept(dense, mask, mask_stride, static_cast<Bits*>(weight.values.data()));
  });
  set_views(weight, rows, cols, row_offsets[rows], dense.dtype());
  return weight;
}

void sparse_to_dense(const SparseWeight& weight, const Tensor& out) {
  require_host_matrix(out, "sparse_to_dense");
  require(out.size(0) == weight.rows && out.size(1) == weight.cols, "sparse_to_dense: out is " + out.to_string() + ", the weight is [" +
                                                                        std::to_string(weight.rows) + ", " + std::to_string(weight.cols) +
                                                                        "]");
  const auto* mask = weight.mask.data<const std::uint8_t>();
  const auto* row_offsets = weight.row_offsets.data<const std::int64_t>();
  visit_floating(weight.dtype(), [&](auto in_tag) {
    using In = typename decltype(in_tag)::type;
    visit_floating(out.dtype(), [&](auto out_tag) {
      using Out = typename decltype(out_tag)::type;
      for (std::int64_t r = 0; r < weight.rows; ++r) {
        scatter_row(mask + r * weight.mask_stride(), weight.mask_stride(), weight.cols, weight.values.data<const In>() + row_offsets[r],
                    out.row<Out>(r));
      }
    });
  });
}

OwnedSparseWeight slice_rows(const SparseWeight& weight, std::int64_t begin, std::int64_t end, Allocator& allocator) {
  require(0 <= begin && begin <= end && end <= weight.rows, "slice_rows: [" + std::to_string(begin) + ", " + std::to_string(end) +
                                                                ") is not inside " + std::to_string(weight.rows) + " rows");
  const auto* row_offsets = weight.row_offsets.data<const std::int64_t>();
  const std::int64_t first = row_offsets[begin];
  const std::int64_t nnz = row_offsets[end] - first;
  OwnedSparseWeight result(allocator, end - begin, weight.cols, nnz, weight.dtype());
  const auto mask_bytes = static_cast<std::size_t>(weight.mask_stride());
  std::memcpy(result.mask.data(), weight.mask.data<std::uint8_t>() + static_cast<std::size_t>(begin) * mask_bytes, result.mask.bytes());
  std::memcpy(result.values.data(), static_cast<const std::byte*>(weight.values.raw()) + value_bytes(weight, first), result.values.bytes());
  auto* out_offsets = static_cast<std::int64_t*>(result.row_offsets.data());
  for (std::int64_t r = begin; r <= end; ++r) out_offsets[r - begin] = row_offsets[r] - first;
  return result;
}

OwnedSparseWeight slice_cols(const SparseWeight& weight, std::int64_t begin, std::int64_t end, Allocator& allocator) {
  require(0 <= begin && begin <= end && end <= weight.cols, "slice_cols: [" + std::to_string(begin) + ", " + std::to_string(end) +
                                                                ") is not inside " + std::to_string(weight.cols) + " columns");
  const auto* mask = weight.mask.data<const std::uint8_t>();
  const auto* row_offsets = weight.row_offsets.data<const std::int64_t>();
  const std::int64_t stride = weight.mask_stride();
  std::int64_t nnz = 0;
  for (std::int64_t r = 0; r < weight.rows; ++r) nnz += count_bits(mask + r * stride, stride, begin, end);

  OwnedSparseWeight result(allocator, weight.rows, end - begin, nnz, weight.dtype());
  const std::int64_t out_stride = result.view.mask_stride();
  auto* out_mask = static_cast<std::uint8_t*>(result.mask.data());
  auto* out_offsets = static_cast<std::int64_t*>(result.row_offsets.data());
  auto* out_values = static_cast<std::byte*>(result.values.data());
  const auto* values = static_cast<const std::byte*>(weight.values.raw());
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
    std::memcpy(out_values + value_bytes(weight, out_offsets[r]), values + value_bytes(weight, first), value_bytes(weight, kept));
    out_offsets[r + 1] = out_offsets[r] + kept;
  }
  return result;
}

OwnedSparseWeight concat_rows(const std::vector<SparseWeight>& parts, Allocator& allocator) {
  require(!parts.empty(), "concat_rows: needs at least one weight");
  std::int64_t rows = 0;
  std::int64_t nnz = 0;
  for (const SparseWeight& part : parts) {
    require(part.cols == parts[0].cols && part.dtype() == parts[0].dtype(), "concat_rows: the weights differ in columns or dtype");
    rows += part.rows;
    nnz += part.nnz();
  }
  OwnedSparseWeight result(allocator, rows, parts[0].cols, nnz, parts[0].dtype());
  auto* mask = static_cast<std::byte*>(result.mask.data());
  auto* values = static_cast<std::byte*>(result.values.data());
  auto* offsets = static_cast<std::int64_t*>(result.row_offsets.data());
  std::int64_t first = 0;
  *offsets = 0;
  for (const SparseWeight& part : parts) {
    std::memcpy(mask, part.mask.raw(), static_cast<std::size_t>(part.mask.nbytes()));
    std::memcpy(values, part.values.raw(), static_cast<std::size_t>(part.values.nbytes()));
    mask += part.mask.nbytes();
    values += part.values.nbytes();
    const auto* part_offsets = part.row_offsets.data<const std::int64_t>();
    for (std::int64_t r = 1; r <= part.rows; ++r) offsets[r] = first + part_offsets[r];
    offsets += part.rows;
    first += part.nnz();
  }
  return result;
}

SparseStatistics statistics(const SparseWeight& weight) {
  constexpr std::int64_t kBins = 20;
  SparseStatistics result{};
  result.rows = weight.rows;
  result.cols = weight.cols;
  result.nnz = weight.nnz();
  result.sparsity = weight.sparsity();
  result.row_density_histogram.assign(kBins, 0);
  if (weight.rows == 0 || weight.cols == 0) return result;
  const auto* row_offsets = weight.row_offsets.data<const std::int64_t>();
  result.min_row_nnz = weight.cols;
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    const std::int64_t kept = row_offsets[r + 1] - row_offsets[r];
    result.min_row_nnz = std::min(result.min_row_nnz, kept);
    result.max_row_nnz = std::max(result.max_row_nnz, kept);
    result.empty_rows += kept == 0 ? 1 : 0;
    result.full_rows += kept == weight.cols ? 1 : 0;
    ++result.row_density_histogram[static_cast<std::size_t>(std::min(kBins - 1, kept * kBins / weight.cols))];
  }
  return result;
}

}  // namespace gossamer
