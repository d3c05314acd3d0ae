#include "cpu/reference_weight.h"

#include <algorithm>
#include <cstring>

#include "sparse/value_reader.h"

namespace gossamer {
namespace {

class DenseReferenceWeight final : public ReferenceWeight {
 public:
  DenseReferenceWeight(const Tensor& dense, Allocator& allocator) : values_(allocator, dense.dtype(), {dense.size(0), dense.size(1)}) {
    visit_floating(dense.dtype(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (std::int64_t row = 0; row < rows(); ++row) std::copy_n(dense.row<const T>(row), cols(), values_.view.row<T>(row));
    });
  }

  std::int64_t rows() const override { return values_.view.size(0); }
  std::int64_t cols() const override { return values_.view.size(1); }
  std::int64_t nbytes() const override { return values_.view.nbytes(); }
  DType dtype() const override { return values_.view.dtype(); }
  bool is_sparse() const override { return false; }
  std::string format() const override { return "reference dense"; }
  Tensor table() const override { return values_.view; }

  void expand_row(std::int64_t row, std::span<float> out) const override {
    visit_floating(dtype(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      std::transform(values_.view.row<const T>(row), values_.view.row<const T>(row) + cols(), out.begin(), [](T w) { return to_float(w); });
    });
  }

 private:
  OwnedTensor values_;
};

class ScaledReferenceWeight final : public ReferenceWeight {
 public:
  ScaledReferenceWeight(const ScaledMatrix& dense, Allocator& allocator) : owned_(stack_rows({dense}, allocator)) {}

  std::int64_t rows() const override { return owned_.view.rows(); }
  std::int64_t cols() const override { return owned_.view.cols(); }
  std::int64_t nbytes() const override { return owned_.view.nbytes(); }
  DType dtype() const override { return owned_.view.dtype(); }
  bool is_sparse() const override { return false; }
  std::string format() const override { return "reference dense"; }

  void expand_row(std::int64_t row, std::span<float> out) const override {
    scaled_to_dense(row_slice(owned_.view, row, row + 1), Tensor(out.data(), DType::f32, {1, cols()}));
  }

 private:
  OwnedScaledMatrix owned_;
};

class SparseReferenceWeight final : public ReferenceWeight {
 public:
  SparseReferenceWeight(const SparseWeight& weight, Allocator& allocator)
      : owned_(allocator, weight.rows, weight.cols, weight.nnz(), weight.dtype(), weight.group) {
    copy(owned_.view.mask, weight.mask);
    copy(owned_.view.values, weight.values);
    copy(owned_.view.row_offsets, weight.row_offsets);
    copy(owned_.view.scales, weight.scales);
  }

  std::int64_t rows() const override { return owned_.view.rows; }
  std::int64_t cols() const override { return owned_.view.cols; }
  std::int64_t nbytes() const override { return owned_.view.nbytes(); }
  DType dtype() const override { return owned_.view.dtype(); }
  bool is_sparse() const override { return true; }
  std::string format() const override { return "reference sparse"; }

  void expand_row(std::int64_t row, std::span<float> out) const override {
    const SparseWeight& weight = owned_.view;
    const std::uint8_t* mask = weight.mask.row<const std::uint8_t>(row);
    const float* scales = weight.group > 0 ? weight.scales.row<const float>(row) : nullptr;
    visit_values(dtype(), [&](auto tag) {
      ValueReader<typename decltype(tag)::type> values(weight.values.raw(), weight.row_offsets.data<const std::int64_t>()[row]);
      for (std::int64_t col = 0; col < cols(); ++col) {
        const bool kept = ((mask[col / 8] >> (col % 8)) & 1) != 0;
        const float scale = scales != nullptr ? scales[col / weight.group] : 1.0F;
        out[static_cast<std::size_t>(col)] = kept ? values.next() * scale : 0.0F;
      }
    });
  }

 private:
  static void copy(const Tensor& out, const Tensor& in) {
    if (in.numel() > 0) std::memcpy(out.raw(), in.raw(), static_cast<std::size_t>(in.nbytes()));
  }

  OwnedSparseWeight owned_;
};

}  // namespace

std::unique_ptr<ReferenceWeight> make_reference_weight(const Tensor& dense, Allocator& allocator) {
  return std::make_unique<DenseReferenceWeight>(dense, allocator);
}

std::unique_ptr<ReferenceWeight> make_reference_weight(const ScaledMatrix& dense, Allocator& allocator) {
  return std::make_unique<ScaledReferenceWeight>(dense, allocator);
}

std::unique_ptr<ReferenceWeight> make_reference_weight(const SparseWeight& sparse, Allocator& allocator) {
  return std::make_unique<SparseReferenceWeight>(sparse, allocator);
}

}  // namespace gossamer
