#include "ops/random_weight.h"

#include <cmath>

#include "core/memory.h"
#include "core/thread_pool.h"
#include "ops/door.h"
#include "ops/ops.h"

namespace gossamer {
namespace {

constexpr std::int64_t kRowGrain = 16;

// Calls fn(col, bits) for the kept elements of a row.
template <typename Fn>
void for_each_kept(const RandomWeight& weight, std::int64_t row, const Fn& fn) {
  const std::uint64_t threshold = weight.threshold();
  for (std::int64_t col = 0; col < weight.cols; ++col) {
    const std::uint64_t bits = random_bits(weight.seed, static_cast<std::uint64_t>(row * weight.cols + col));
    if (bits >> 32 >= threshold) fn(col, bits);
  }
}

template <typename T>
void fill_row(const RandomWeight& weight, std::int64_t row, T* values, std::uint8_t* mask) {
  for_each_kept(weight, row, [&](std::int64_t col, std::uint64_t bits) {
    *values++ = from_float<T>(random_value(bits, weight.scale));
    if (mask != nullptr) mask[col / 8] = static_cast<std::uint8_t>(mask[col / 8] | 1U << (col % 8));
  });
}

}  // namespace

std::uint8_t random_byte(const RandomWeight& weight, std::uint64_t bits) {
  const float value = random_value(bits, weight.largest_byte());
  if (weight.dtype == DType::e4m3) return to_float8_e4m3(value).bits;
  return static_cast<std::uint8_t>(static_cast<std::int8_t>(std::nearbyint(value)));
}

OwnedSparseWeight make_random_sparse(const RandomWeight& weight, Allocator& allocator, ThreadPool& pool) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(weight.rows));
  pool.parallel_for(weight.rows, kRowGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      for_each_kept(weight, row, [&](std::int64_t, std::uint64_t) { ++counts[static_cast<std::size_t>(row)]; });
    }
  });
  std::int64_t nnz = 0;
  for (const std::int64_t count : counts) nnz += count;
  OwnedSparseWeight out(allocator, weight.rows, weight.cols, nnz, weight.dtype, weight.has_bytes() ? weight.cols : 0);
  auto* offsets = out.view.row_offsets.data<std::int64_t>();
  offsets[0] = 0;
  for (std::int64_t row = 0; row < weight.rows; ++row) offsets[row + 1] = offsets[row] + counts[static_cast<std::size_t>(row)];
  const auto fill = [&](const auto& fill_values) {
    pool.parallel_for(weight.rows, kRowGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        std::uint8_t* mask = out.view.mask.data<std::uint8_t>() + row * out.view.mask_stride();
        std::fill_n(mask, out.view.mask_stride(), std::uint8_t{0});
        fill_values(row, offsets[row], mask);
      }
    });
  };
  if (weight.has_bytes()) {
    std::fill_n(out.view.scales.data<float>(), weight.rows, weight.byte_scale());
    auto* bytes = static_cast<std::uint8_t*>(out.view.values.raw());
    fill([&](std::int64_t row, std::int64_t offset, std::uint8_t* mask) {
      for_each_kept(weight, row, [&](std::int64_t col, std::uint64_t bits) {
        bytes[offset++] = random_byte(weight, bits);
        mask[col / 8] = static_cast<std::uint8_t>(mask[col / 8] | 1U << (col % 8));
      });
    });
    return out;
  }
  visit_floating(weight.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    fill([&](std::int64_t row, std::int64_t offset, std::uint8_t* mask) {
      fill_row(weight, row, out.view.values.template data<T>() + offset, mask);
    });
  });
  return out;
}

OwnedScaledMatrix make_random_scaled(const RandomWeight& weight, Allocator& allocator, ThreadPool& pool) {
  OwnedScaledMatrix out(allocator, weight.dtype, weight.rows, weight.cols, weight.cols);
  std::fill_n(out.view.scales.data<float>(), weight.rows, weight.byte_scale());
  RandomWeight all = weight;
  all.is_sparse = false;
  pool.parallel_for(weight.rows, kRowGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      auto* bytes = static_cast<std::uint8_t*>(out.view.values.select(0, row).raw());
      for_each_kept(all, row, [&](std::int64_t col, std::uint64_t bits) { bytes[col] = random_byte(weight, bits); });
    }
  });
  return out;
}

OwnedTensor make_random_dense(const RandomWeight& weight, Allocator& allocator, ThreadPool& pool) {
  OwnedTensor out(allocator, weight.dtype, {weight.rows, weight.cols});
  visit_floating(weight.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    pool.parallel_for(weight.rows, kRowGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) fill_row(weight, row, out.view.data<T>() + row * weight.cols, nullptr);
    });
  });
  return out;
}

std::unique_ptr<PackedWeight> Ops::pack(const RandomWeight& weight) {
  const detail::Door door("pack", device());
  door.expect(weight.rows > 0 && weight.cols > 0, "the weight is [", weight.rows, ", ", weight.cols, "]; both sizes must be positive");
  door.expect(is_floating(weight.dtype) || weight.has_bytes(), "the weight is ", weight.dtype, "; it must be f32, f16, bf16, i8 or e4m3");
  door.expect(weight.sparsity >= 0 && weight.sparsity <= 1, "sparsity = ", weight.sparsity, "; it must lie in [0, 1]");
  return do_pack_random(weight);
}

std::unique_ptr<PackedWeight> Ops::do_pack_random(const RandomWeight& weight) {
  HostAllocator host;
  ThreadPool pool;
  if (weight.is_sparse) return pack(make_random_sparse(weight, host, pool).view);
  if (weight.has_bytes()) return pack(make_random_scaled(weight, host, pool).view);
  RandomWeight dense = weight;
  dense.sparsity = 0;
  return do_pack_dense(make_random_dense(dense, host, pool).view);
}

}  // namespace gossamer
