#include "cpu/cpu_weight.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace gossamer::cpu {

namespace {

constexpr std::int64_t kPackGrain = 8;  // groups per chunk

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::size_t bytes_of(std::int64_t elements, std::size_t size) { return static_cast<std::size_t>(elements) * size; }

// Row-major, rows padded to a step and to a group with zeros.
class DenseWeight final : public CpuWeight {
 public:
  DenseWeight(const Tensor& dense, Allocator& allocator, ThreadPool& pool)
      : rows_(dense.size(0)),
        cols_(dense.size(1)),
        groups_(divide_up(rows_, kGroup)),
        steps_(divide_up(cols_, kStep)),
        dtype_(dense.dtype()),
        values_(allocator, bytes_of(groups_ * kGroup * steps_ * kStep, size_of(dtype_))) {
    const std::size_t row_bytes = bytes_of(cols_, size_of(dtype_));
    const std::size_t padded_bytes = bytes_of(steps_ * kStep, size_of(dtype_));
    const std::size_t from_stride = bytes_of(dense.stride(0), size_of(dtype_));
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
  std::int64_t nbytes() const override { return static_cast<std::int64_t>(values_.bytes()); }
  DType dtype() const override { return dtype_; }
  bool is_sparse() const override { return false; }
  std::string format() const override { return "dense"; }
  Tensor table() const override { return values_.view(dtype_, {rows_, steps_ * kStep}).slice(1, 0, cols_); }
  WeightView view() const override { return {dtype_, false, rows_, steps_, values_.data(), nullptr, nullptr}; }

 private:
  std::int64_t rows_, cols_, groups_, steps_;
  DType dtype_;
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
  BitmapWeight(const SparseWeight& weight, Allocator& allocator, ThreadPool& pool)
      : rows_(weight.rows),
        cols_(weight.cols),
        groups_(divide_up(rows_, kGroup)),
        steps_(divide_up(cols_, kStep)),
        dtype_(weight.dtype()),
        values_(allocator, bytes_of(weight.nnz(), size_of(dtype_)) + kValuePadding),
        masks_(allocator, bytes_of(groups_ * steps_ * kGroup, sizeof(std::uint32_t))),
        offsets_(allocator, bytes_of(groups_, sizeof(std::int64_t))) {
    std::memset(static_cast<std::byte*>(values_.data()) + values_.bytes() - kValuePadding, 0, kValuePadding);
    const auto* row_offsets = weight.row_offsets.data<const std::int64_t>();
    // A group's values are those of its rows, in another order: it begins where its first row does.
    for (std::int64_t group = 0; group < groups_; ++group) offsets()[group] = row_offsets[group * kGroup];
    pool.parallel_for(groups_, kPackGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t group = begin; group < end; ++group) pack_group(weight, row_offsets, group);
    });
  }

  std::int64_t rows() const override { return rows_; }
  std::int64_t cols() const override { return cols_; }
  std::int64_t nbytes() const override { return static_cast<std::int64_t>(values_.bytes() + masks_.bytes() + offsets_.bytes()); }
  DType dtype() const override { return dtype_; }
  bool is_sparse() const override { return true; }
  std::string format() const override { return "bitmap rows"; }
  WeightView view() const override {
    return {dtype_, true, rows_, steps_, values_.data(), static_cast<const std::uint32_t*>(masks_.data()), offsets()};
  }

 private:
  std::int64_t* offsets() const { return static_cast<std::int64_t*>(offsets_.data()); }

  void pack_group(const SparseWeight& weight, const std::int64_t* row_offsets, std::int64_t group) {
    const std::size_t size = size_of(dtype_);
    const auto* from = static_cast<const std::byte*>(weight.values.raw());
    auto* to = static_cast<std::byte*>(values_.data()) + static_cast<std::size_t>(offsets()[group]) * size;
    auto* masks = static_cast<std::uint32_t*>(masks_.data()) + group * steps_ * kGroup;
    const std::int64_t here = std::min<std::int64_t>(kGroup, rows_ - group * kGroup);
    std::int64_t next[kGroup] = {};
    for (std::int64_t r = 0; r < here; ++r) next[r] = row_offsets[group * kGroup + r];
    for (std::int64_t step = 0; step < steps_; ++step) {
      for (std::int64_t r = 0; r < kGroup; ++r) {
        const std::uint32_t mask = r < here ? mask_at(weight, group * kGroup + r, step) : 0;
        const int count = std::popcount(mask);
        *masks++ = mask;
        std::memcpy(to, from + static_cast<std::size_t>(next[r]) * size, static_cast<std::size_t>(count) * size);
        next[r] += count;
        to += static_cast<std::size_t>(count) * size;
      }
    }
  }

  std::int64_t rows_, cols_, groups_, steps_;
  DType dtype_;
  Buffer values_;
  Buffer masks_;
  Buffer offsets_;
};

}  // namespace

std::unique_ptr<CpuWeight> pack_dense(const Tensor& dense, Allocator& allocator, ThreadPool& pool) {
  return std::make_unique<DenseWeight>(dense, allocator, pool);
}

std::unique_ptr<CpuWeight> pack_bitmap(const SparseWeight& weight, Allocator& allocator, ThreadPool& pool) {
  return std::make_unique<BitmapWeight>(weight, allocator, pool);
}

}  // namespace gossamer::cpu
