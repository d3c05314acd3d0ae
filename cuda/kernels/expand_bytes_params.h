// Plain parameter struct of the kernel that expands weights of 8-bit tiles.
#pragma once

#include "kernels/expand_params.h"

namespace gossamer {

struct ExpandBytesParams {
  ExpandParams base;                  // out: f16 or bf16
  const float* row_scales = nullptr;  // [m]
};

}  // namespace gossamer
