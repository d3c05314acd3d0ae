// The kernels for AVX-512 with BF16: with bf16 activations, products of bf16 weights use the native dot product.
#if defined(__AVX512BF16__)
// clang-format off: each is written in terms of those before it
#include "cpu/vec_avx512.h"
#include "cpu/vec_math.h"
#include "cpu/kernels_readers.h"
#include "cpu/kernels_linear.h"
#include "cpu/kernels_dot.h"
#include "cpu/kernels_dot8.h"
#include "cpu/kernels_dot4.h"
#include "cpu/kernels_attention.h"
#include "cpu/kernels_rowwise.h"
// clang-format on

namespace gossamer::cpu {

const Kernels* avx512_bf16_kernels() {
  static constexpr Kernels kernels{linear,   dot,        dot8,  dot4,   round_to_bytes, center_bytes, attention,
                                   rms_norm, layer_norm, gated, rotate, add_row,        widen,        narrow};
  return &kernels;
}

}  // namespace gossamer::cpu
#else
#include "cpu/kernels.h"

namespace gossamer::cpu {

const Kernels* avx512_bf16_kernels() { return nullptr; }

}  // namespace gossamer::cpu
#endif
