// The reference backend's weight: the canonical form, copied. expand_row() is all that its product needs.
#pragma once

#include <span>

#include "ops/ops.h"

namespace gossamer {

class ReferenceWeight : public PackedWeight {
 public:
  // Writes row `row` of W as floats, zeros included. out has cols() elements.
  virtual void expand_row(std::int64_t row, std::span<float> out) const = 0;
};

std::unique_ptr<ReferenceWeight> make_reference_weight(const Tensor& dense, Allocator& allocator);
std::unique_ptr<ReferenceWeight> make_reference_weight(const ScaledMatrix& dense, Allocator& allocator);
std::unique_ptr<ReferenceWeight> make_reference_weight(const SparseWeight& sparse, Allocator& allocator);

}  // namespace gossamer
