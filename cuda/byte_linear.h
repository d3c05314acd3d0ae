// Ops::linear for 8-bit weights and few tokens, and their expansion for many.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <tuple>

#include "byte_weight.h"
#include "ops/ops.h"
#include "ops/plugin.h"
#include "plan/byte_plan.h"

namespace gossamer::cuda {

class ByteLinear {
 public:
  // Beyond, a weight is expanded into halves and multiplied as a dense one. Not measured yet: a pass over the weight takes 32 tokens.
  static constexpr std::int64_t kMostTokens = 32;

  ByteLinear(Allocator& allocator, const DeviceLimits& limits, DType act, EightBit eight_bit);

  void apply(const Tensor& out, const Tensor& x, const ByteTiles& weight, const Epilogue& epilogue, cudaStream_t stream);
  // out: halves [m, ldw], ldw at least k and a multiple of 8.
  void expand(void* out, std::int64_t ldw, const ByteTiles& weight, cudaStream_t stream);

 private:
  const BytePlan& plan(const TiledWeight& weight, std::int64_t n, bool is_aligned);

  DeviceLimits limits_;
  DType act_;
  EightBit eight_bit_;
  // Plans by what they depend on: m, k, n, the largest record, the values' dtype, alignment.
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, DType, bool>, BytePlan> plans_;
  Workspace partials_, tickets_, packed_x_, token_scales_;
};

}  // namespace gossamer::cuda
