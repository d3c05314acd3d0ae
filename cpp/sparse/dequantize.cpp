#include "sparse/dequantize.h"

#include <cmath>
#include <cstring>
#include <string>

#include "core/error.h"
#include "sparse/bits.h"
#include "sparse/value_reader.h"

namespace gossamer {
namespace {

constexpr std::int64_t kGrain = 64;  // rows per chunk

template <typename Out>
Out rounded(float value) {
  const Out out = from_float<Out>(value);
  require(std::isfinite(to_float(out)) || !std::isfinite(value),
          "a weight of " + std::to_string(value) + " does not fit " + std::string(name_of(dtype_of<Out>())) + "; use dtype='bfloat16'");
  return out;
}

template <typename In, typename Out>
void dequantize_row(const SparseWeight& weight, std::int64_t row, Out* out) {
  ValueReader<In> values(weight.values.raw(), weight.row_offsets.data<const std::int64_t>()[row]);
  const float* scales = weight.scales.data<const float>() + row * num_scale_groups(weight.cols, weight.group);
  const std::uint8_t* mask = weight.mask.data<const std::uint8_t>() + row * weight.mask_stride();
  for_each_word(mask, weight.mask_stride(), 0, weight.cols, [&](std::int64_t column, std::int64_t, std::uint64_t word) {
    const float scale = scales[column / weight.group];  // a group is the whole row or a multiple of 64 columns
    for (std::int64_t left = count_ones(word); left > 0; --left) *out++ = rounded<Out>(values.next() * scale);
  });
}

}  // namespace

OwnedSparseWeight dequantize(const SparseWeight& weight, DType dtype, Allocator& allocator, ThreadPool& pool) {
  require(is_scaled(weight.dtype()) && (dtype == DType::f16 || dtype == DType::bf16),
          "dequantize: from scaled values to f16 or bf16, not from " + std::string(name_of(weight.dtype())) + " to " +
              std::string(name_of(dtype)));
  static_assert(kScaleGroupUnit % 64 == 0);
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(weight.rows) + 1);
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    const std::uint8_t* mask = weight.mask.data<const std::uint8_t>() + r * weight.mask_stride();
    offsets[static_cast<std::size_t>(r) + 1] =
        offsets[static_cast<std::size_t>(r)] + count_bits(mask, weight.mask_stride(), 0, weight.cols);
  }
  OwnedSparseWeight out(allocator, weight.rows, weight.cols, offsets.back(), dtype);
  std::memcpy(out.view.mask.raw(), weight.mask.raw(), static_cast<std::size_t>(weight.mask.nbytes()));
  std::memcpy(out.view.row_offsets.raw(), offsets.data(), offsets.size() * sizeof(std::int64_t));
  visit_values(weight.dtype(), [&](auto in) {
    using In = typename decltype(in)::type;
    if constexpr (is_scaled_type<In>) {
      visit_floating(dtype, [&](auto to) {
        using Out = typename decltype(to)::type;
        pool.parallel_for(weight.rows, kGrain, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t r = begin; r < end; ++r) {
            dequantize_row<In>(weight, r, static_cast<Out*>(out.view.values.raw()) + offsets[static_cast<std::size_t>(r)]);
          }
        });
      });
    }
  });
  return out;
}

OwnedTensor dequantize(const ScaledMatrix& matrix, DType dtype, Allocator& allocator, ThreadPool& pool) {
  OwnedTensor out(allocator, dtype, {matrix.rows(), matrix.cols()});
  pool.parallel_for(matrix.rows(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    OwnedTensor exact(allocator, DType::f32, {1, matrix.cols()});
    for (std::int64_t r = begin; r < end; ++r) {
      scaled_to_dense(row_slice(matrix, r, r + 1), exact.view);
      const auto* from = exact.view.data<const float>();
      visit_floating(dtype, [&](auto to) {
        using Out = typename decltype(to)::type;
        Out* row = static_cast<Out*>(out.view.raw()) + r * matrix.cols();
        for (std::int64_t c = 0; c < matrix.cols(); ++c) row[c] = rounded<Out>(from[c]);
      });
    }
  });
  return out;
}

OwnedSparseWeight with_full_mask(const ScaledMatrix& matrix, Allocator& allocator, ThreadPool& pool) {
  require(matrix.dtype() == DType::i8 || matrix.dtype() == DType::e4m3, "with_full_mask: values must be i8 or e4m3");
  require(matrix.group == matrix.cols(), "with_full_mask: the values must have one scale a row");
  const std::int64_t rows = matrix.rows(), cols = matrix.cols();
  OwnedSparseWeight out(allocator, rows, cols, rows * cols, matrix.dtype(), cols);
  pool.parallel_for(rows, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      std::uint8_t* mask = out.view.mask.data<std::uint8_t>() + r * out.view.mask_stride();
      std::memset(mask, 0xff, static_cast<std::size_t>(out.view.mask_stride()));
      if (cols % 8 != 0) mask[cols / 8] = static_cast<std::uint8_t>((1 << cols % 8) - 1);
      std::memcpy(static_cast<std::uint8_t*>(out.view.values.raw()) + r * cols, matrix.values.select(0, r).raw(),
                  static_cast<std::size_t>(cols));
      out.view.scales.data<float>()[r] = *matrix.scales.select(0, r).data<const float>();
    }
  });
  for (std::int64_t r = 0; r <= rows; ++r) out.view.row_offsets.data<std::int64_t>()[r] = r * cols;
  return out;
}

}  // namespace gossamer
