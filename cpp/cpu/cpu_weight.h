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
std::unique_ptr<CpuWeight> pack_bitmap(const SparseWeight& weight, Allocator& allocator, ThreadPool& pool);

}  // namespace gossamer::cpu
