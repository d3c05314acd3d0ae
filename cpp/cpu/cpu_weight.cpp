#include "cpu/cpu_weight.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace gossamer::cpu {

namespace {

constexpr std::int64_t kPackGrain = 8;  // groups per chunk

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::size_t bytes_of(std::int64_t elements, std::size_t size) { return static_cast<std::size_t>(elements) * size; }

// Scales as the kernels want them; see WeightView. Rows past the last have 0.
class PackedScales {
 public:
  PackedScales() = default;
  // scales: f32 [rows, k / group]. by_steps: for the values; else, with one scale a row, for the outputs.
  PackedScales(const Tensor& scales, std::int64_t group, std::int64_t steps, bool by_steps, Allocator& allocator) {
    const std::int64_t rows = scales.size(0);
    const std::int64_t padded = divide_up(rows, kGroup) * kGroup;
    const std::int64_t sets = by_steps ? scales.size(1) : 1;
    scale_steps_ = by_steps ? (scales.size(1) == 1 ? steps : group / kStep) : 0;
    buffer_ = Buffer(allocator, bytes_of(padded * sets, sizeof(float)));
    auto* to = static_cast<float*>(buffer_.data());
    for (std::int64_t row = 0; row < padded; ++row) {
      for (std::int64_t set = 0; set < sets; ++set) {
        to[(row / kGroup * sets + set) * kGroup + row % kGroup] = row < rows ? scales.row<const float>(row)[set] : 0.0F;
      }
    }
  }
  std::int64_t nbytes() const { return static_cast<std::int64_t>(buffer_.bytes() + row_sums_.bytes()); }
  void fill(WeightView& view) const {
    const auto* scales = static_cast<const float*>(buffer_.data());
    (scale_steps_ > 0 ? view.step_scales : view.row_scales) = scales;
    view.scale_steps = scale_steps_;
    view.row_sums = static_cast<const std::int32_t*>(row_sums_.data());
  }
  // sum_of(row): of a row's i8 values.
  template <typename SumOf>
  void add_row_sums(std::int64_t rows, Allocator& allocator, const SumOf& sum_of) {
    const std::int64_t padded = divide_up(rows, kGroup) * kGroup;
    row_sums_ = Buffer(allocator, bytes_of(padded, sizeof(std::int32_t)));
    auto* sums = static_cast<std::int32_t*>(row_sums_.data());
    for (std::int64_t row = 0; row < padded; ++row) {  // modulo 2^32, as the kernels add
      sums[row] = row < rows ? static_cast<std::int32_t>(static_cast<std::uint32_t>(128 * sum_of(row))) : 0;
    }
  }

 private:
  Buffer buffer_;
  Buffer row_sums_;
  std::int64_t scale_steps_ = 0;
};

// Row-major, rows padded to a step and to a group with zeros.
class DenseWeight final : public CpuWeight {
 public:
  // dtype: what the values were before they were widened for the kernels.
  DenseWeight(const Tensor& dense, DType dtype, PackedScales scales, Allocator& allocator, ThreadPool& pool)
      : rows_(dense.size(0)),
        cols_(dense.size(1)),
        groups_(divide_up(rows_, kGroup)),
        steps_(divide_up(cols_, kStep)),
        dtype_(dense.dtype()),
        stored_dtype_(dtype),
        scales_(std::move(scales)),
        values_(allocator, static_cast<std::size_t>(gossamer::bytes_of(dtype_, groups_ * kGroup * steps_ * kStep))) {
    const auto row_bytes = static_cast<std::size_t>(gossamer::bytes_of(dtype_, cols_));
    const auto padded_bytes = static_cast<std::size_t>(gossamer::bytes_of(dtype_, steps_ * kStep));
    const auto from_stride = static_cast<std::size_t>(gossamer::bytes_of(dtype_, dense.stride(0)));
    pool.parallel_for(groups_ * kGroup, kPackGrain * kGroup, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        std::byte* to = static_cast<std::byte*>(values_.data()) + static_cast<std::size_t>(row) * padded_bytes;
        const std::size_t filled = row < rows_ ? row_bytes : 0;
        if (filled > 0) std::memcpy(to, static_cast<const std::byte*>(dense.raw()) + static_cast<std::size_t>(row) * from_stride, filled);
        std::memset(to + filled, 0, padded_bytes - filled);
      }
    });
  }

  std::int64_t rows() const override { return rows_; }
  std::int64_t cols() const override { return cols_; }
  std::int64_t nbytes() const override { return static_cast<std::int64_t>(values_.bytes()) + scales_.nbytes(); }
  DType dtype() const override { return stored_dtype_; }
  bool is_sparse() const override { return false; }
  std::string format() const override { return "dense"; }
  Tensor table() const override {
    if (is_scaled(stored_dtype_)) return {};
    return values_.view(dtype_, {rows_, steps_ * kStep}).slice(1, 0, cols_);
  }
  WeightView view() const override {
    WeightView view{dtype_, false, rows_, steps_, values_.data(), nullptr, nullptr};
    scales_.fill(view);
    return view;
  }

 private:
  std::int64_t rows_, cols_, groups_, steps_;
  DType dtype_, stored_dtype_;
  PackedScales scales_;
  Buffer values_;
};

// The kStep mask bits of one row at a step; bits past the row's end are 0.
std::uint32_t mask_at(const SparseWeight& weight, std::int64_t row, std::int64_t step) {
  const std::int64_t stride = weight.mask_stride();
  const std::int64_t first = step * (kStep / 8);
  const auto* bytes = static_cast<const std::uint8_t*>(weight.mask.raw()) + row * stride;
  std::uint32_t mask = 0;
  for (std::int64_t i = 0; i < kStep / 8 && first + i < stride; ++i) mask |= std::uint32_t{bytes[first + i]} << (8 * i);
  return mask;
}

class BitmapWeight final : public CpuWeight {
 public:
  // dtype: what the values were before they were widened for the kernels.
  BitmapWeight(const SparseWeight& weight, DType dtype, PackedScales scales, Allocator& allocator, ThreadPool& pool)
      : rows_(weight.rows),
        cols_(weight.cols),
        groups_(divide_up(rows_, kGroup)),
        steps_(divide_up(cols_, kStep)),
        dtype_(weight.dtype()),
        stored_dtype_(dtype),
        scales_(std::move(scales)),
        masks_(allocator, bytes_of(groups_ * steps_ * kGroup, sizeof(std::uint32_t))),
        offsets_(allocator, bytes_of(groups_, sizeof(std::int64_t))) {
    const auto* row_offsets = weight.row_offsets.data<const std::int64_t>();
    const auto for_groups = [&](auto&& body) {
      pool.parallel_for(groups_, kPackGrain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t group = begin; group < end; ++group) body(group);
      });
    };
    for_groups([&](std::int64_t group) { pack_masks(weight, group); });
    const std::int64_t value_bytes = place_groups(row_offsets, weight.nnz());
    values_ = Buffer(allocator, static_cast<std::size_t>(value_bytes) + kValuePadding);
    std::memset(static_cast<std::byte*>(values_.data()) + value_bytes, 0, kValuePadding);
    for_groups([&](std::int64_t group) {
      if (dtype_ == DType::i4) {
        pack_nibbles(weight, row_offsets, group);
      } else {
        pack_values(weight, row_offsets, group);
      }
    });
  }

  std::int64_t rows() const override { return rows_; }
  std::int64_t cols() const override { return cols_; }
  std::int64_t nbytes() const override {
    return static_cast<std::int64_t>(values_.bytes() + masks_.bytes() + offsets_.bytes()) + scales_.nbytes();
  }
  DType dtype() const override { return stored_dtype_; }
  bool is_sparse() const override { return true; }
  std::string format() const override { return "bitmap rows"; }
  WeightView view() const override {
    WeightView view{dtype_, true, rows_, steps_, values_.data(), masks(), offsets()};
    scales_.fill(view);
    return view;
  }

 private:
  std::int64_t* offsets() const { return static_cast<std::int64_t*>(offsets_.data()); }
  std::uint32_t* masks() const { return static_cast<std::uint32_t*>(masks_.data()); }
  std::int64_t rows_of(std::int64_t group) const { return std::min<std::int64_t>(kGroup, rows_ - group * kGroup); }

  void pack_masks(const SparseWeight& weight, std::int64_t group) {
    std::uint32_t* to = masks() + group * steps_ * kGroup;
    for (std::int64_t step = 0; step < steps_; ++step) {
      for (std::int64_t r = 0; r < kGroup; ++r) *to++ = r < rows_of(group) ? mask_at(weight, group * kGroup + r, step) : 0;
    }
  }

  // Fills the offsets, returns the bytes of all values. A group's values are those of its rows, in another order: it begins where its first
  // row does. In i4 every mask's values begin on a byte.
  std::int64_t place_groups(const std::int64_t* row_offsets, std::int64_t nnz) {
    std::int64_t bytes = 0;
    for (std::int64_t group = 0; group < groups_; ++group) {
      offsets()[group] = dtype_ == DType::i4 ? bytes : row_offsets[group * kGroup];
      if (dtype_ != DType::i4) continue;
      const std::uint32_t* mask = masks() + group * steps_ * kGroup;
      for (std::int64_t i = 0; i < steps_ * kGroup; ++i) bytes += (std::popcount(mask[i]) + 1) / 2;
    }
    return dtype_ == DType::i4 ? bytes : gossamer::bytes_of(dtype_, nnz);
  }

  void pack_values(const SparseWeight& weight, const std::int64_t* row_offsets, std::int64_t group) {
    const std::size_t size = size_of(dtype_);
    const auto* from = static_cast<const std::byte*>(weight.values.raw());
    auto* to = static_cast<std::byte*>(values_.data()) + static_cast<std::size_t>(offsets()[group]) * size;
    const std::uint32_t* mask = masks() + group * steps_ * kGroup;
    std::int64_t next[kGroup] = {};
    for (std::int64_t r = 0; r < rows_of(group); ++r) next[r] = row_offsets[group * kGroup + r];
    for (std::int64_t step = 0; step < steps_; ++step) {
      for (std::int64_t r = 0; r < kGroup; ++r) {
        const int count = std::popcount(*mask++);
        std::memcpy(to, from + static_cast<std::size_t>(next[r]) * size, static_cast<std::size_t>(count) * size);
        next[r] += count;
        to += static_cast<std::size_t>(count) * size;
      }
    }
  }

  void pack_nibbles(const SparseWeight& weight, const std::int64_t* row_offsets, std::int64_t group) {
    const auto* from = static_cast<const std::uint8_t*>(weight.values.raw());
    auto* to = static_cast<std::uint8_t*>(values_.data()) + offsets()[group];
    const std::uint32_t* mask = masks() + group * steps_ * kGroup;
    std::int64_t next[kGroup] = {};
    for (std::int64_t r = 0; r < rows_of(group); ++r) next[r] = row_offsets[group * kGroup + r];
    for (std::int64_t step = 0; step < steps_; ++step) {
      for (std::int64_t r = 0; r < kGroup; ++r) {
        const int count = std::popcount(*mask++);
        for (int i = 0; i < count; i += 2) {
          const int high = i + 1 < count ? nibble_at(from, next[r] + i + 1) & 15 : 0;
          *to++ = static_cast<std::uint8_t>((nibble_at(from, next[r] + i) & 15) | high << 4);
        }
        next[r] += count;
      }
    }
  }

  std::int64_t rows_, cols_, groups_, steps_;
  DType dtype_, stored_dtype_;
  PackedScales scales_;
  Buffer values_;
  Buffer masks_;
  Buffer offsets_;
};

std::int64_t sum_of(const std::int8_t* values, std::int64_t count) {
  std::int64_t sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += values[i];
  return sum;
}

// e4m3 becomes bf16, which holds its numbers.
Buffer widened_e4m3(const Tensor& values, Allocator& allocator) {
  Buffer wide(allocator, static_cast<std::size_t>(values.numel()) * sizeof(BFloat16));
  const auto* from = static_cast<const Float8E4M3*>(values.raw());
  auto* to = static_cast<BFloat16*>(wide.data());
  for (std::int64_t i = 0; i < values.numel(); ++i) to[i] = to_bfloat16(to_float(from[i]));
  return wide;
}

// The values times their scales: for groups of columns that no kernel knows.
OwnedSparseWeight multiplied_out(const SparseWeight& weight, Allocator& allocator) {
  OwnedTensor dense(allocator, DType::f32, {1, weight.cols});
  OwnedSparseWeight result(allocator, weight.rows, weight.cols, weight.nnz(), DType::f32);
  std::memcpy(result.mask.data(), weight.mask.raw(), result.mask.bytes());
  std::memcpy(result.row_offsets.data(), weight.row_offsets.raw(), result.row_offsets.bytes());
  auto* to = static_cast<float*>(result.values.data());
  for (std::int64_t row = 0; row < weight.rows; ++row) {
    const OwnedSparseWeight one = slice_rows(weight, row, row + 1, allocator);
    sparse_to_dense(one.view, dense.view);
    const auto* mask = static_cast<const std::uint8_t*>(one.mask.data());
    for (std::int64_t c = 0; c < weight.cols; ++c) {
      if ((mask[c / 8] >> (c % 8) & 1) != 0) *to++ = dense.view.data<float>()[c];
    }
  }
  return result;
}

}  // namespace

std::unique_ptr<CpuWeight> pack_dense(const Tensor& dense, Allocator& allocator, ThreadPool& pool) {
  return std::make_unique<DenseWeight>(dense, dense.dtype(), PackedScales(), allocator, pool);
}

std::unique_ptr<CpuWeight> pack_scaled(const ScaledMatrix& dense, Allocator& allocator, ThreadPool& pool) {
  const std::int64_t rows = dense.rows(), cols = dense.cols();
  const bool by_steps = dense.dtype() == DType::i4;
  if (!by_steps && dense.group != cols) {
    OwnedTensor product(allocator, DType::f32, {rows, cols});
    scaled_to_dense(dense, product.view);
    return std::make_unique<DenseWeight>(product.view, dense.dtype(), PackedScales(), allocator, pool);
  }
  PackedScales scales(dense.scales, dense.group, divide_up(cols, kStep), by_steps, allocator);
  if (dense.dtype() == DType::i8) {
    scales.add_row_sums(rows, allocator, [&](std::int64_t row) { return sum_of(dense.values.row<const std::int8_t>(row), cols); });
  }
  if (dense.dtype() != DType::e4m3) return std::make_unique<DenseWeight>(dense.values, dense.dtype(), std::move(scales), allocator, pool);
  const OwnedScaledMatrix whole = stack_rows({dense}, allocator);
  const Buffer wide = widened_e4m3(whole.view.values, allocator);
  return std::make_unique<DenseWeight>(wide.view(DType::bf16, {rows, cols}), dense.dtype(), std::move(scales), allocator, pool);
}

std::unique_ptr<CpuWeight> pack_bitmap(const SparseWeight& weight, Allocator& allocator, ThreadPool& pool) {
  const DType dtype = weight.dtype();
  if (is_floating(dtype)) return std::make_unique<BitmapWeight>(weight, dtype, PackedScales(), allocator, pool);
  const bool by_steps = dtype == DType::i4;
  if (!by_steps && weight.group != weight.cols) {
    return std::make_unique<BitmapWeight>(multiplied_out(weight, allocator).view, dtype, PackedScales(), allocator, pool);
  }
  PackedScales scales(weight.scales, weight.group, divide_up(weight.cols, kStep), by_steps, allocator);
  if (dtype == DType::i8) {
    const auto* offsets = weight.row_offsets.data<const std::int64_t>();
    const auto* values = weight.values.data<const std::int8_t>();
    scales.add_row_sums(weight.rows, allocator,
                        [&](std::int64_t row) { return sum_of(values + offsets[row], offsets[row + 1] - offsets[row]); });
  }
  if (dtype != DType::e4m3) return std::make_unique<BitmapWeight>(weight, dtype, std::move(scales), allocator, pool);
  const Buffer wide = widened_e4m3(weight.values, allocator);
  SparseWeight widened = weight;
  widened.values = wide.view(DType::bf16, {weight.nnz()});
  return std::make_unique<BitmapWeight>(widened, dtype, std::move(scales), allocator, pool);
}

}  // namespace gossamer::cpu
