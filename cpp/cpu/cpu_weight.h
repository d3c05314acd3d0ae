// The packed weights of the vectorised CPU backend. Layouts: kernels.h, WeightView.
#pragma once

#include <memory>

#include "core/thread_pool.h"
#include "cpu/kernels.h"
#include "ops/ops.h"

namespace gossamer::cpu {

class CpuWeight : public PackedWeight {
 public:
  virtual WeightView view() const = 0;
};

std::unique_ptr<CpuWeight> pack_dense(const Tensor& dense, Allocator& allocator, ThreadPool& pool);
// i8 and i4 are multiplied as they are; e4m3 is widened to bf16, and groups of columns with a scale of their own (but i4's) to f32.
std::unique_ptr<CpuWeight> pack_scaled(const ScaledMatrix& dense, Allocator& allocator, ThreadPool& pool);
std::unique_ptr<CpuWeight> pack_bitmap(const SparseWeight& weight, Allocator& allocator, ThreadPool& pool);

}  // namespace gossamer::cpu
