// The plain parameter struct of the decode SpMM kernels; shared by host and device code.
#pragma once

#include <cstdint>

namespace gossamer {

enum class SpmmActivation : std::int32_t { none, relu, gelu, gelu_tanh, silu };
enum class SpmmOut : std::int32_t { same, f32 };  // type of out: that of x, or f32

// out[n, m] = activation(x[n, k] · Wᵀ + bias) * multiplier + residual; a gated unit is the silu of the gate with up as multiplier
struct SpmmParams {
  const std::uint8_t* data = nullptr;      // TiledWeight::data
  const std::uint32_t* offsets = nullptr;  // TiledWeight::offsets, units of 16 bytes
  const void* x = nullptr;                 // f16 or bf16 [n, k], rows ldx apart
  void* out = nullptr;                     // [n, m], rows ldo apart
  const void* bias = nullptr;              // [m] of x's type, or null
  const void* multiplier = nullptr;        // [n, m] of out's type, rows ldr apart, or null; may be out itself
  const void* residual = nullptr;          // likewise
  std::uint8_t* packed_x = nullptr;        // workspace (packed_x.h), where the configuration packs x
  float* partials = nullptr;               // [passes][ctas][2][row warps][fragments][32 lanes][4]
  std::uint32_t* tickets = nullptr;        // [passes][super rows][row warps][ending warps], zero before and after
  std::int64_t ldx = 0, ldo = 0, ldr = 0;  // elements
  std::int32_t m = 0, k = 0, n = 0;
  std::int32_t row_blocks = 0;   // ceil(m / 32)
  std::int32_t records = 0;      // per row block: ceil(k / 64)
  std::uint32_t slot_bytes = 0;  // of one ring slot: max record + 16
  bool x_is_aligned = false;     // 16-byte aligned rows and k % 8 == 0: vector loads
  SpmmActivation activation = SpmmActivation::none;
  SpmmOut out_type = SpmmOut::same;
  std::int32_t stages = 0;  // of the warp-specialised kernel; set by its launcher
};

}  // namespace gossamer
