// What a CPU kernel is given and what an instruction set offers: plain structs and one table of functions. The files that are compiled
// for an instruction set (kernels_*.cpp) include this and intrinsics only: an inline function of a shared header, compiled there with
// AVX flags, might be the copy that the linker keeps for every CPU.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace gossamer::cpu {

inline constexpr int kGroup = 8;     // weight rows that are packed, and multiplied, together
inline constexpr int kStep = 32;     // columns of one packed step; k is padded to it with zeros
inline constexpr int kKvBlock = 16;  // tokens per block of the attention sum, whatever the pool's block_size
inline constexpr int kMaxHeadDim = 512;
inline constexpr int kMaxUnitRows = 32;           // (token, head) pairs of one attention unit
inline constexpr int kMaxUnitState = 8192;        // floats of running output of one attention unit
inline constexpr std::int64_t kMaxDot8K = 65536;  // 255 * 127 * k fits 32 bits
inline constexpr std::int64_t kMaxDot4Steps = 64;
inline constexpr float kLimitDot8 = 32767.0F;  // greatest 16-bit activation
inline constexpr float kLimitDot4 = 32639.0F;  // 127 * 256 + 127: both of its signed bytes fit
inline constexpr int kValuePadding = 64;       // bytes readable past the last packed value

// Same order as gossamer::Activation.
enum class Act { none, relu, gelu, gelu_tanh, silu };

// A packed weight [m, k]. Dense: values [groups * kGroup, steps * kStep]. Sparse: per group, step after step, kGroup masks of kStep
// bits (row by row, lowest bit = first column) and the values of their set bits in the same order; in i4 the values of each mask begin on a
// byte. i8 has one scale a row, by which outputs are multiplied; i4 has scales of groups of columns, by which values are.
struct WeightView {
  DType dtype;  // of the packed values: f32, f16, bf16, i8 or i4
  bool sparse;
  std::int64_t rows;   // m
  std::int64_t steps;  // ceil(k / kStep)
  const void* values;
  const std::uint32_t* masks;              // [groups, steps, kGroup], sparse only
  const std::int64_t* offsets;             // [groups], first value of each group (in i4 its first byte), sparse only
  const float* row_scales = nullptr;       // [groups * kGroup]
  const float* step_scales = nullptr;      // [groups, ceil(steps / scale_steps), kGroup]
  std::int64_t scale_steps = 0;            // steps that share a scale
  const std::int32_t* row_sums = nullptr;  // i8: 128 times the sum of each row's values, [groups * kGroup]
};

// out[n, m] = activation(x · Wᵀ + bias) + residual. x has steps * kStep readable columns, zero past k. Null pointers are left out.
struct LinearTask {
  WeightView weight;
  const void* x;  // float; BFloat16 or bytes for the native dot products
  std::int64_t x_stride;
  std::int64_t n;
  float* out;
  std::int64_t out_stride;
  const float* bias;
  const float* residual;
  std::int64_t residual_stride;
  Act activation;
  // Of the byte dot products alone: x holds the low bytes; see kernels_dot8.h and kernels_dot4.h.
  const std::uint8_t* x_high = nullptr;
  const std::int32_t* x_sums = nullptr;  // [n, steps, 8], for i4
  const float* x_scales = nullptr;       // [n]
};

struct AttentionTask {
  const void* keys;  // [num_blocks, num_kv_heads, block_size, head_dim]
  const void* values;
  DType kv_dtype;
  std::int64_t num_kv_heads;
  std::int64_t block_size;
  std::int64_t head_dim;
  const float* q;
  std::int64_t q_token_stride;
  std::int64_t q_head_stride;
  float* out;
  std::int64_t out_token_stride;
  std::int64_t out_head_stride;
  float scale;
  std::int64_t window;  // 0 = all
};

// Consecutive tokens of one sequence, and heads that share a KV head. Rows = num_tokens * num_heads <= kMaxUnitRows,
// and rows * head_dim (rounded up to 16) <= kMaxUnitState.
struct AttentionUnit {
  const std::int32_t* blocks;  // the sequence's row of the block table
  std::int64_t first_token;    // row of q and out
  std::int64_t first_position;
  std::int32_t num_tokens;
  std::int32_t first_head;
  std::int32_t num_heads;
  std::int32_t kv_head;
};

struct Kernels {
  // Rows of groups [group_begin, group_end), all tokens.
  void (*linear)(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end);
  // bf16 weights with bf16 activations; null where the instruction set has no such dot product.
  void (*dot)(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end);
  // i8 weights, for k up to kMaxDot8K, and i4 weights, for scales of up to kMaxDot4Steps steps (a power of 2), with 16-bit integer
  // activations. round_to_bytes makes these, the greatest of them `limit`, and returns their scale; center_bytes follows it for i4.
  // Null likewise.
  void (*dot8)(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end);
  void (*dot4)(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end);
  float (*round_to_bytes)(std::uint8_t* low, std::uint8_t* high, const float* x, std::int64_t size, std::int64_t padded, float limit);
  void (*center_bytes)(std::uint8_t* low, std::uint8_t* high, std::int32_t* sums, std::int64_t padded);
  void (*attention)(const AttentionTask& task, const AttentionUnit& unit);
  void (*rms_norm)(float* out, const float* x, const float* weight, std::int64_t size, float eps);
  void (*layer_norm)(float* out, const float* x, const float* weight, const float* bias, std::int64_t size, float eps);
  void (*gated)(float* out, const float* gate, const float* up, std::int64_t size, Act activation);
  void (*rotate)(float* x, const float* cos, const float* sin, std::int64_t half);
  void (*add)(float* x, const float* y, std::int64_t size);
  void (*widen)(float* out, const void* in, DType dtype, std::int64_t size, bool accumulate);
  void (*narrow)(void* out, DType dtype, const float* in, std::int64_t size);
};

// Null where the compiler's target has no such instruction set.
const Kernels* portable_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* avx512_bf16_kernels();

}  // namespace gossamer::cpu
