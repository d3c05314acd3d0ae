// Plain parameter structs of the row-wise kernels. Strides are in elements. overlaps: the kernel is launched by programmatic dependent
// launch and lets the next one start early.
#pragma once

#include <cstdint>

#include "kernels/activation_kind.h"

namespace gossamer::cuda {

// out[i] = table[ids[i] - row_begin] (+ out[i]); ids outside the table give zeros.
struct EmbeddingParams {
  void* out = nullptr;          // [n, size]
  const void* table = nullptr;  // [rows, size]
  const std::int32_t* ids = nullptr;
  std::int64_t n = 0, size = 0, rows = 0, row_begin = 0;
  std::int64_t out_stride = 0, table_stride = 0;
  bool accumulate = false;
  bool overlaps = false;
};

// Vector v = (i / inner, i % inner) of x and out; bias null: RMS norm.
struct NormParams {
  void* out = nullptr;
  const void* x = nullptr;
  const void* weight = nullptr;  // [size]
  const void* bias = nullptr;    // [size] or null
  std::int64_t vectors = 0, inner = 1, size = 0;
  std::int64_t out_outer = 0, out_inner = 0, x_outer = 0, x_inner = 0;
  float eps = 0.0F;
  bool overlaps = false;
};

// out[n, size] = activation(gate_up[n, :size]) * gate_up[n, size:].
struct GatedParams {
  void* out = nullptr;
  const void* gate_up = nullptr;
  std::int64_t n = 0, size = 0, out_stride = 0, in_stride = 0;
  Act act{};
  bool overlaps = false;
};

// out[i] = x[rows[i]].
struct GatherParams {
  void* out = nullptr;
  const void* x = nullptr;
  const std::int32_t* rows = nullptr;
  std::int64_t n = 0, size = 0, out_stride = 0, x_stride = 0;
  bool overlaps = false;
};

// ids[i] = tokens[rows[i]] where rows[i] >= 0.
struct TakeParams {
  std::int32_t* ids = nullptr;
  const std::int32_t* rows = nullptr;
  const std::int32_t* tokens = nullptr;
  std::int64_t n = 0;
};

// x[n, size] += y[n, size].
struct AddParams {
  void* x = nullptr;
  const void* y = nullptr;
  std::int64_t n = 0, size = 0, x_stride = 0, y_stride = 0;
  bool overlaps = false;
};

// out = activation(sums + bias) + residual; sums f32 [n, size] contiguous.
struct EpilogueParams {
  void* out = nullptr;
  const float* sums = nullptr;
  const void* bias = nullptr;      // [size] or null
  const void* residual = nullptr;  // of out's type, or null
  std::int64_t n = 0, size = 0, out_stride = 0, residual_stride = 0;
  Act act{};
  bool overlaps = false;
};

}  // namespace gossamer::cuda
