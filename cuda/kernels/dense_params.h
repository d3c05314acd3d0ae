// Plain parameter struct of the dense product without a library, and of the expansion of a tiled weight.
#pragma once

#include <cstdint>

#include "kernels/activation_kind.h"

namespace gossamer::cuda {

// out[n, m] = activation(x[n, k] · Wᵀ + bias) + residual
struct DenseParams {
  const void* weight = nullptr;    // [m, k], rows ldw apart: 16-byte aligned, zeros behind k
  const void* x = nullptr;         // [n, k]
  void* out = nullptr;             // [n, m]
  const void* bias = nullptr;      // [m] or null
  const void* residual = nullptr;  // [n, m] of out's type, or null; may be out itself
  std::int64_t ldw = 0, ldx = 0, ldo = 0, ldr = 0;
  std::int64_t m = 0, k = 0, n = 0;
  Act act{};
  bool overlaps = false;  // as in rowwise_params.h
};

}  // namespace gossamer::cuda
