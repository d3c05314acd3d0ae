#include "sparse/sparse_weight.h"

#include <algorithm>
#include <cstring>

#include "sparse/bits.h"
#include "sparse/value_reader.h"

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

template <typename In, typename Out>
void scatter_scaled_row(const std::uint8_t* mask, std::int64_t mask_stride, std::int64_t cols, ValueReader<In> values, const float* scales,
                        std::int64_t group, Out* out) {
  std::memset(static_cast<void*>(out), 0, static_cast<std::size_t>(cols) * sizeof(Out));
  for_each_word(mask, mask_stride, 0, cols, [&](std::int64_t c, std::int64_t /*count*/, std::uint64_t word) {
    for (; word != 0; word &= word - 1) {
      const std::int64_t column = c + std::countr_zero(word);
      out[column] = from_float<Out>(values.next() * scales[column / group]);
    }
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

void set_views(OwnedSparseWeight& weight, std::int64_t rows, std::int64_t cols, std::int64_t nnz, DType dtype, std::int64_t group = 0) {
  weight.view.rows = rows;
  weight.view.cols = cols;
  weight.view.mask = weight.mask.view(DType::u8, {rows, (cols + 7) / 8});
  weight.view.values = weight.values.view(dtype, {nnz});
  weight.view.row_offsets = weight.row_offsets.view(DType::i64, {rows + 1});
  weight.view.group = group;
  if (group > 0) weight.view.scales = weight.scales.view(DType::f32, {rows, num_scale_groups(cols, group)});
}

Buffer allocate_for(Allocator& allocator, DType dtype, std::initializer_list<std::int64_t> shape) {
  return Buffer(allocator, static_cast<std::size_t>(Tensor(nullptr, dtype, shape).nbytes()));
}

}  // namespace

double SparseWeight::sparsity() const {
  const double elements = static_cast<double>(rows) * static_cast<double>(cols);
  if (elements == 0.0) return 0.0;
  // In i4 some rows store a value more than they keep.
  const std::int64_t kept = dtype() == DType::i4 ? count_bits(mask.data<const std::uint8_t>(), mask.nbytes(), 0, 8 * mask.nbytes()) : nnz();
  return 1.0 - static_cast<double>(kept) / elements;
}

std::int64_t SparseWeight::nbytes() const { return mask.nbytes() + values.nbytes() + row_offsets.nbytes() + scales.nbytes(); }

OwnedSparseWeight::OwnedSparseWeight(Allocator& allocator, std::int64_t rows, std::int64_t cols, std::int64_t nnz, DType dtype,
                                     std::int64_t group) {
  require(rows >= 0 && cols >= 0 && nnz >= 0, "a sparse weight's sizes are not negative");
  require(is_floating(dtype) || is_scaled(dtype),
          "a sparse weight's values are f32, f16, bf16, i8, e4m3 or i4, not " + std::string(name_of(dtype)));
  if (is_scaled(dtype)) {
    require_scale_group(group, cols, "a sparse weight");
    scales = allocate_for(allocator, DType::f32, {rows, num_scale_groups(cols, group)});
  } else {
    require(group == 0, "a sparse weight of " + std::string(name_of(dtype)) + " has no scales");
  }
  mask = allocate_for(allocator, DType::u8, {rows, (cols + 7) / 8});
  values = allocate_for(allocator, dtype, {nnz});
  row_offsets = allocate_for(allocator, DType::i64, {rows + 1});
  set_views(*this, rows, cols, nnz, dtype, group);
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

namespace {

// Bit i = the value at column c + i is not 0.
template <typename T>
std::uint64_t nonzero_scaled_word(const std::uint8_t* row, std::int64_t c, std::int64_t count) {
  std::uint64_t word = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    bool kept = false;
    if constexpr (std::is_same_v<T, Int4>) {
      kept = nibble_at(row, c + i) != 0;
    } else {
      kept = (row[c + i] & (std::is_same_v<T, Float8E4M3> ? 0x7F : 0xFF)) != 0;
    }
    word |= std::uint64_t{kept} << i;
  }
  return word;
}

}  // namespace

OwnedSparseWeight sparse_from_scaled(const ScaledMatrix& dense, Allocator& allocator) {
  const std::int64_t rows = dense.rows();
  const std::int64_t cols = dense.cols();
  const DType dtype = dense.dtype();
  OwnedSparseWeight weight(allocator, rows, cols, 0, dtype, dense.group);
  auto* offsets = static_cast<std::int64_t*>(weight.row_offsets.data());
  const auto row_of = [&](std::int64_t r) { return static_cast<const std::uint8_t*>(dense.values.select(0, r).raw()); };
  const auto mask_of = [&](std::int64_t r) { return weight.view.mask.row<std::uint8_t>(r); };
  offsets[0] = 0;
  visit_values(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (std::int64_t r = 0; r < rows; ++r) {
      std::int64_t kept = 0;
      for (std::int64_t c = 0; c < cols; c += 64) {
        const std::int64_t count = std::min<std::int64_t>(64, cols - c);
        const std::uint64_t word = nonzero_scaled_word<T>(row_of(r), c, count);
        store_bits(mask_of(r), c, count, word);
        kept += count_ones(word);
      }
      offsets[r + 1] = offsets[r] + stored_values(dtype, kept);
    }
  });
  weight.values = allocate_for(allocator, dtype, {offsets[rows]});
  set_views(weight, rows, cols, offsets[rows], dtype, dense.group);
  for (std::int64_t r = 0; r < rows; ++r) {
    auto* out = static_cast<std::uint8_t*>(weight.values.data()) + bytes_of(dtype, offsets[r]);
    std::int64_t next = 0;
    for_each_word(mask_of(r), weight.view.mask_stride(), 0, cols, [&](std::int64_t c, std::int64_t /*count*/, std::uint64_t word) {
      for (; word != 0; word &= word - 1, ++next) {
        const std::int64_t column = c + std::countr_zero(word);
        if (dtype != DType::i4) {
          out[next] = row_of(r)[column];
        } else if (next % 2 == 0) {
          out[next / 2] = static_cast<std::uint8_t>(nibble_at(row_of(r), column) & 15);
        } else {
          out[next / 2] = static_cast<std::uint8_t>(out[next / 2] | (nibble_at(row_of(r), column) & 15) << 4);
        }
      }
    });
    std::memcpy(weight.view.scales.row<float>(r), dense.scales.row<float>(r),
                static_cast<std::size_t>(dense.scales.size(1)) * sizeof(float));
  }
  return weight;
}

void sparse_to_dense(const SparseWeight& weight, const Tensor& out) {
  require_host_matrix(out, "sparse_to_dense");
  require(out.size(0) == weight.rows && out.size(1) == weight.cols, "sparse_to_dense: out is " + out.to_string() + ", the weight is [" +
                                                                        std::to_string(weight.rows) + ", " + std::to_string(weight.cols) +
                                                                        "]");
  const auto* mask = weight.mask.data<const std::uint8_t>();
  const auto* row_offsets = weight.row_offsets.data<const std::int64_t>();
  const std::int64_t stride = weight.mask_stride();
  visit_values(weight.dtype(), [&](auto in_tag) {
    using In = typename decltype(in_tag)::type;
    visit_floating(out.dtype(), [&](auto out_tag) {
      using Out = typename decltype(out_tag)::type;
      for (std::int64_t r = 0; r < weight.rows; ++r) {
        if constexpr (is_scaled_type<In>) {
          scatter_scaled_row(mask + r * stride, stride, weight.cols, ValueReader<In>(weight.values.raw(), row_offsets[r]),
                             weight.scales.row<const float>(r), weight.group, out.row<Out>(r));
        } else {
          scatter_row(mask + r * stride, stride, weight.cols, weight.values.data<const In>() + row_offsets[r], out.row<Out>(r));
        }
      }
    });
  });
}

SparseStatistics statistics(const SparseWeight& weight) {
  constexpr std::int64_t kBins = 20;
  SparseStatistics result{};
  result.rows = weight.rows;
  result.cols = weight.cols;
  result.sparsity = weight.sparsity();
  result.row_density_histogram.assign(kBins, 0);
  if (weight.rows == 0 || weight.cols == 0) return result;
  result.min_row_nnz = weight.cols;
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    const std::int64_t kept = count_bits(weight.mask.row<const std::uint8_t>(r), weight.mask_stride(), 0, weight.cols);
    result.nnz += kept;
    result.min_row_nnz = std::min(result.min_row_nnz, kept);
    result.max_row_nnz = std::max(result.max_row_nnz, kept);
    result.empty_rows += kept == 0 ? 1 : 0;
    result.full_rows += kept == weight.cols ? 1 : 0;
    ++result.row_density_histogram[static_cast<std::size_t>(std::min(kBins - 1, kept * kBins / weight.cols))];
  }
  return result;
}

}  // namespace gossamer
