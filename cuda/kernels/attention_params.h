// Plain parameter structs of rotary embedding, KV writes and paged attention. Strides are in elements; pools are contiguous
// [num_blocks, num_kv_heads, block_size, head_dim].
#pragma once

#include <cstdint>

namespace gossamer::cuda {

// Rotates q and k in place, then writes k and v to their slots.
struct RopeKvParams {
  void* q = nullptr;           // [n, num_heads, head_dim]
  void* k = nullptr;           // [n, num_kv_heads, head_dim]
  const void* v = nullptr;     // same
  void* keys = nullptr;        // pool
  void* values = nullptr;      // pool
  const float* cos = nullptr;  // [positions, rotary_half], or null: no rotation
  const float* sin = nullptr;
  const std::int32_t* positions = nullptr;
  const std::int32_t* slots = nullptr;
  std::int64_t q_token = 0, q_head = 0, k_token = 0, k_head = 0, v_token = 0, v_head = 0;  // strides
  std::int32_t n = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0, rotary_half = 0, block_size = 0;
  bool overlaps = false;  // as in rowwise_params.h
};

inline constexpr std::int32_t kSplitTokens = 256;  // of context, per block of the decode kernel: fixed, so that a sum's order is

struct PagedAttentionParams {
  const void* q = nullptr;  // [n, num_heads, head_dim]
  void* out = nullptr;      // same
  const void* keys = nullptr;
  const void* values = nullptr;
  const std::int32_t* query_start = nullptr;  // [num_seqs + 1]
  const std::int32_t* context_len = nullptr;  // [num_seqs]
  const std::int32_t* block_table = nullptr;  // [num_seqs, table_stride]
  float* partials = nullptr;                  // decode: [n, num_heads, num_splits, head_dim + 2]: sum, maximum, total
  std::int64_t table_stride = 0;
  std::int64_t q_token = 0, q_head = 0, out_token = 0, out_head = 0;  // strides
  std::int32_t n = 0, num_seqs = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0, block_size = 0;
  std::int32_t first_token = 0;  // of the batch: q and out begin with it
  std::int32_t num_splits = 1;
  std::int32_t window = 0;  // 0 = all
  float scale_log2 = 1.0F;  // of q·k, times log2(e)
  bool overlaps = false;    // as in rowwise_params.h
};

// What the decode kernel needs to rotate and write this step's tokens itself, one per sequence.
struct NewTokenParams {
  const void* k = nullptr;     // [n, num_kv_heads, head_dim]
  const void* v = nullptr;     // same
  const float* cos = nullptr;  // [positions, head_dim / 2], or null: no rotation
  const float* sin = nullptr;
  const std::int32_t* positions = nullptr;
  const std::int32_t* slots = nullptr;
  void* keys = nullptr;  // pool
  void* values = nullptr;
  std::int64_t k_token = 0, k_head = 0, v_token = 0, v_head = 0;  // strides
};

}  // namespace gossamer::cuda
