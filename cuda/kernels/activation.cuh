// The activation functions, in float.
#pragma once

#include "kernels/activation_kind.h"

namespace gossamer::cuda {

__device__ __forceinline__ float activate(float x, Act act) {
  switch (act) {
    case Act::none: return x;
    case Act::relu: return x < 0.0F ? 0.0F : x;  // NaN stays
    case Act::gelu: return 0.5F * x * erfcf(-x * 0.70710678F);
    case Act::gelu_tanh: return x / (1.0F + expf(-1.59576912F * (x + 0.044715F * x * x * x)));
    case Act::silu: return x / (1.0F + expf(-x));
  }
  return x;
}

}  // namespace gossamer::cuda
