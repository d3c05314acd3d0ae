// Paged attention for prompts, on tensor cores: a block takes kPrefillQueries tokens of one sequence and one head, and goes through the
// context in tiles of kPrefillKeys tokens, aligned to its start, with a running maximum (FlashAttention). Scores and sums are fp32; weights
// are rounded to the activations' type before they multiply values.
#pragma once

#include <type_traits>

#include "device/ptx.cuh"
#include "device/shared.cuh"
#include "kernels/attention_any.cuh"

namespace gossamer::cuda {

inline constexpr int kPrefillWarps = 4;  // 16 queries each
inline constexpr int kPrefillQueries = 16 * kPrefillWarps;
inline constexpr int kPrefillKeys = 64;

// Rows of a tile are 16 bytes longer than they need be: eight rows then lie in eight different bank groups.
template <int kHeadDim>
struct PrefillShared {
  static constexpr int kRowBytes = 2 * kHeadDim + 16;
  static constexpr int kTileBytes = kPrefillKeys * kRowBytes;
  static constexpr int kBytes = 4 * kTileBytes;  // two stages of keys and values
};

// Tile `index` of the batch, counting each sequence's tiles in turn: its sequence and its first token; -1 past the end.
struct PrefillTile {
  int sequence, first, end;  // tokens [first, end) of the batch
};
__device__ __forceinline__ PrefillTile prefill_tile(const std::int32_t* query_start, int num_seqs, int index) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int before = 0;
  for (int base = 0; base < num_seqs; base += 32) {
    const int s = base + lane;
    const int begin = s < num_seqs ? query_start[s] : 0, end = s < num_seqs ? query_start[s + 1] : 0;
    const int tiles = (end - begin + kPrefillQueries - 1) / kPrefillQueries;
    const int through = before + static_cast<int>(ptx::warp_inclusive_scan(static_cast<std::uint32_t>(tiles)));
    const unsigned later = __ballot_sync(0xffffffffU, through > index);
    if (later != 0) {
      const int owner = __ffs(static_cast<int>(later)) - 1;
      const int first = __shfl_sync(0xffffffffU, begin + (index - (through - tiles)) * kPrefillQueries, owner);
      return {base + owner, first, __shfl_sync(0xffffffffU, end, owner)};
    }
    before = __shfl_sync(0xffffffffU, through, 31);
  }
  return {-1, 0, 0};
}

// Copies the tile of keys and values that begins at token `first` of the context; zeros from `end` on and beyond head_dim.
template <class T, int kHeadDim>
__device__ __forceinline__ void load_prefill_tile(const PagedAttentionParams& p, const std::int32_t* table, int kv_head, int block_shift,
                                                  int first, int end, std::uint32_t keys, std::uint32_t values) {
  constexpr int kChunks = kHeadDim / 8;
  static_assert(kPrefillKeys * kChunks % (kPrefillWarps * 32) == 0);
#pragma unroll
  for (int i = 0; i < kPrefillKeys * kChunks / (kPrefillWarps * 32); ++i) {
    const int index = i * kPrefillWarps * 32 + static_cast<int>(threadIdx.x);
    const int row = index / kChunks, chunk = index % kChunks, t = first + row;
    const bool is_there = t < end && 8 * chunk < p.head_dim;
    const std::int64_t page = is_there ? table[t >> block_shift] : 0;
    const std::int64_t at =
        is_there ? (((page * p.num_kv_heads + kv_head) << block_shift) + (t & ((1 << block_shift) - 1))) * p.head_dim + 8 * chunk : 0;
    const std::uint32_t to = static_cast<std::uint32_t>(row * PrefillShared<kHeadDim>::kRowBytes + 16 * chunk);
    ptx::copy_async_16_or_zero(keys + to, static_cast<const T*>(p.keys) + at, is_there);
    ptx::copy_async_16_or_zero(values + to, static_cast<const T*>(p.values) + at, is_there);
  }
}

template <class T>
__device__ __forceinline__ std::uint32_t pack_pair(float low, float high) {
  const T a = from_float<T>(low), b = from_float<T>(high);
  return std::uint32_t{reinterpret_cast<const std::uint16_t&>(a)} | std::uint32_t{reinterpret_cast<const std::uint16_t&>(b)} << 16;
}

// head_dim <= kHeadDim, a multiple of 8. Grid: head, tile, the ones with the longest context first.
template <class T, int kHeadDim>
__global__ void __launch_bounds__(kPrefillWarps * 32, kHeadDim <= 64 ? 3 : 2)
    attention_prefill_kernel(const __grid_constant__ PagedAttentionParams p, int block_shift) {
  constexpr bool kIsBf16 = std::is_same_v<T, __nv_bfloat16>;
  constexpr int kSteps = kHeadDim / 16, kRowBytes = PrefillShared<kHeadDim>::kRowBytes, kTileBytes = PrefillShared<kHeadDim>::kTileBytes;
  if (p.overlaps) ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (p.num_heads / p.num_kv_heads);
  const PrefillTile tile = prefill_tile(p.query_start, p.num_seqs, static_cast<int>(gridDim.y - 1 - blockIdx.y));
  if (tile.sequence < 0) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const std::int32_t* table = p.block_table + tile.sequence * p.table_stride;
  // Token i of the batch sees its context up to i + shift.
  const int shift = p.context_len[tile.sequence] - p.query_start[tile.sequence + 1];
  const int context_end = min(tile.first + kPrefillQueries, tile.end) + shift;
  const int seen_from = p.window > 0 ? max(0, tile.first + shift + 1 - p.window) : 0;

  const int rows[2] = {tile.first + 16 * warp + lane / 4, tile.first + 16 * warp + lane / 4 + 8};  // this lane's queries
  std::uint32_t q[kSteps][4];
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = rows[i % 2], d = 16 * s + 8 * (i / 2) + 2 * (lane % 4);
      const T* from = static_cast<const T*>(p.q) + row * p.q_token + head * p.q_head + d;
      q[s][i] = row < tile.end && d < p.head_dim ? *reinterpret_cast<const std::uint32_t*>(from) : 0;
    }
  }

  float sums[2 * kSteps][4] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
  const std::uint32_t shared = ptx::shared_address(dynamic_shared());
  // Row and column that this lane names to load_matrices: of keys as they lie, of values to be transposed.
  const std::uint32_t key_at = static_cast<std::uint32_t>((lane % 8 + lane / 16 * 8) * kRowBytes + lane / 8 % 2 * 16);
  const std::uint32_t value_at = static_cast<std::uint32_t>(lane % 16 * kRowBytes + lane / 16 * 16);
  int first = seen_from / kPrefillKeys * kPrefillKeys, stage = 0;
  load_prefill_tile<T, kHeadDim>(p, table, kv_head, block_shift, first, context_end, shared, shared + kTileBytes);
  ptx::copy_async_commit();
  for (; first < context_end; first += kPrefillKeys, stage ^= 1) {
    const std::uint32_t keys = shared + static_cast<std::uint32_t>(stage * 2 * kTileBytes), values = keys + kTileBytes;
    if (first + kPrefillKeys < context_end) {
      const std::uint32_t next = shared + static_cast<std::uint32_t>((stage ^ 1) * 2 * kTileBytes);
      load_prefill_tile<T, kHeadDim>(p, table, kv_head, block_shift, first + kPrefillKeys, context_end, next, next + kTileBytes);
      ptx::copy_async_commit();
      ptx::copy_async_wait<1>();
    } else {
      ptx::copy_async_wait<0>();
    }
    __syncthreads();  // all threads' copies are there

    float scores[kPrefillKeys / 8][4] = {};
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int j = 0; j < kPrefillKeys / 16; ++j) {
        std::uint32_t b[4];
        ptx::load_matrices(b, keys + key_at + static_cast<std::uint32_t>(16 * j * kRowBytes + 32 * s));
        ptx::mma_16x8x16<kIsBf16>(scores[2 * j], q[s], b[0], b[1]);
        ptx::mma_16x8x16<kIsBf16>(scores[2 * j + 1], q[s], b[2], b[3]);
      }
    }

    // Only the last tiles, and the window's first, hold tokens that some query does not see.
    const bool is_masked = first + kPrefillKeys > tile.first + 16 * warp + shift + 1 ||
                           (p.window > 0 && first < tile.first + 16 * warp + 15 + shift + 1 - p.window);
    std::uint32_t weights[kPrefillKeys / 8][2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int last = rows[r] + shift, from = p.window > 0 ? last + 1 - p.window : 0;  // the query sees [from, last]
      float most = largest[r];
#pragma unroll
      for (int j = 0; j < kPrefillKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int t = first + 8 * j + 2 * (lane % 4) + e;
          float& score = scores[j][2 * r + e];
          score = is_masked && (t > last || t < from) ? -INFINITY : score * p.scale_log2;
          most = fmaxf(most, score);
        }
      }
      most = fmaxf(most, __shfl_xor_sync(0xffffffffU, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffU, most, 2));
      const float base = most == -INFINITY ? 0.0F : most;  // nothing seen yet: every weight is 0
      const float fade = exp2f(largest[r] - base);
      largest[r] = most;
      float sum = 0.0F;
#pragma unroll
      for (int j = 0; j < kPrefillKeys / 8; ++j) {
        const float low = exp2f(scores[j][2 * r] - base), high = exp2f(scores[j][2 * r + 1] - base);
        sum += low + high;
        weights[j][r] = pack_pair<T>(low, high);
      }
      total[r] = total[r] * fade + sum;
#pragma unroll
      for (int d = 0; d < 2 * kSteps; ++d) {
        sums[d][2 * r] *= fade;
        sums[d][2 * r + 1] *= fade;
      }
    }

#pragma unroll
    for (int j = 0; j < kPrefillKeys / 16; ++j) {
      const std::uint32_t a[4] = {weights[2 * j][0], weights[2 * j][1], weights[2 * j + 1][0], weights[2 * j + 1][1]};
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        std::uint32_t b[4];
        ptx::load_matrices_transposed(b, values + value_at + static_cast<std::uint32_t>(16 * j * kRowBytes + 32 * s));
        ptx::mma_16x8x16<kIsBf16>(sums[2 * s], a, b[0], b[1]);
        ptx::mma_16x8x16<kIsBf16>(sums[2 * s + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();  // the stage may be written again
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += __shfl_xor_sync(0xffffffffU, total[r], 1);
    total[r] += __shfl_xor_sync(0xffffffffU, total[r], 2);
    if (rows[r] >= tile.end) continue;
    const float factor = total[r] > 0.0F ? 1.0F / total[r] : 0.0F;
    T* out = static_cast<T*>(p.out) + rows[r] * p.out_token + head * p.out_head;
#pragma unroll
    for (int d = 0; d < 2 * kSteps; ++d) {
      const int column = 8 * d + 2 * (lane % 4);
      if (column >= p.head_dim) continue;
      out[column] = from_float<T>(sums[d][2 * r] * factor);
      out[column + 1] = from_float<T>(sums[d][2 * r + 1] * factor);
    }
  }
}

}  // namespace gossamer::cuda
