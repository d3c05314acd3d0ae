// The end of a segment with its work spread over all warps of the CTA: each adds up and writes out some of the tokens of its row warp.
#pragma once

#include <cstdint>

#include "kernels/spmm_common.cuh"
#include "kernels/spmm_sums.h"

namespace gossamer {

// A warp's sums, into its part of `sums`: kNTiles * 8 lines of 32 rows, one a token.
template <int kNTiles>
__device__ __forceinline__ void store_sums(const Fragments<2 * kNTiles>& acc, float* mine, int lane) {
#pragma unroll
  for (int t = 0; t < 2 * kNTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      mine[sum_index(t % kNTiles * 8 + 2 * (lane % 4) + i % 2, t / kNTiles * 16 + lane / 4 + 8 * (i / 2))] = acc[t][i];
    }
  }
}

template <bool kIsBf16>
__device__ __forceinline__ void write_value(const SpmmParams& p, std::int64_t token, int row, float v) {
  using Half = typename HalfType<kIsBf16>::type;
  const auto value = [&](const void* tensor, std::int64_t i) {
    return p.out_type == SpmmOut::f32 ? static_cast<const float*>(tensor)[i] : static_cast<float>(static_cast<const Half*>(tensor)[i]);
  };
  if (p.bias != nullptr) v += static_cast<float>(static_cast<const Half*>(p.bias)[row]);
  v = apply_activation(v, p.activation);
  if (p.multiplier != nullptr) v *= value(p.multiplier, token * p.ldr + row);
  if (p.residual != nullptr) v += value(p.residual, token * p.ldr + row);
  const std::int64_t o = token * p.ldo + row;
  if (p.out_type == SpmmOut::f32) {
    static_cast<float*>(p.out)[o] = v;
  } else {
    static_cast<Half*>(p.out)[o] = Half(v);
  }
}

// Adds the groups' sums in order, and the parts of other CTAs in theirs, and writes out. sums: [groups][row warps][lines].
template <bool kIsBf16, int kNTiles, int kRowWarps, int kGroups>
__device__ __forceinline__ void finish_segment(const SpmmParams& p, const SpmmSchedule& schedule, int super_row, bool is_whole, int first_n,
                                               int warp, int lane, const float* sums) {
  constexpr int kWarps = kRowWarps * kGroups, kMine = (kNTiles * 8 + kGroups - 1) / kGroups;  // lines of a warp
  const int row_warp = warp % kRowWarps, first_token = warp / kRowWarps;                      // of this warp's tokens, kGroups apart
  const int row = (super_row * kRowWarps + row_warp) * 32 + lane, tokens = min(p.n - first_n, kNTiles * 8);
  if (first_token >= tokens || super_row * kRowWarps + row_warp >= p.row_blocks) return;
  float v[kMine];
#pragma unroll
  for (int j = 0; j < kMine; ++j) {
    v[j] = 0.0F;
    const int token = first_token + j * kGroups;
    if (token >= tokens) break;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) v[j] += sums[(g * kRowWarps + row_warp) * kNTiles * 256 + sum_index(token, lane)];
  }
  if (!is_whole) {
    const std::int64_t first_unit = std::int64_t{super_row} * p.records, pass = blockIdx.y;
    const int first = schedule.owner_fast(first_unit), last = schedule.owner_fast(first_unit + p.records - 1);
    const auto part = [&](int cta) {  // lines of a CTA: [kMine][warps]
      const int slot = schedule.begin_fast(cta) > first_unit ? 0 : 1;
      return p.partials + ((pass * schedule.ctas + cta) * 2 + slot) * (spread_lines(kNTiles, kRowWarps, kGroups) * 32) + warp * 32 + lane;
    };
    float* mine = part(blockIdx.x);
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      if (first_token + j * kGroups < tokens) __stcg(mine + j * kWarps * 32, v[j]);
    }
    __syncwarp();  // with the release below, orders the stores of all lanes before the ticket
    std::uint32_t arrived = 0;
    std::uint32_t* ticket = p.tickets + (pass * schedule.super_rows + super_row) * kWarps + warp;
    if (lane == 0) arrived = ptx::atomic_add_release_acquire(ticket, 1);
    arrived = __shfl_sync(0xffffffff, arrived, 0);
    if (arrived != static_cast<std::uint32_t>(last - first)) return;
#pragma unroll
    for (int j = 0; j < kMine; ++j) v[j] = 0.0F;
#pragma unroll 2
    for (int cta = first; cta <= last; ++cta) {
      const float* theirs = part(cta);
#pragma unroll
      for (int j = 0; j < kMine; ++j) {
        if (first_token + j * kGroups < tokens) v[j] += __ldcg(theirs + j * kWarps * 32);
      }
    }
    if (lane == 0) *ticket = 0;
  }
  if (row >= p.m) return;
#pragma unroll
  for (int j = 0; j < kMine; ++j) {
    const int token = first_token + j * kGroups;
    if (token < tokens) write_value<kIsBf16>(p, first_n + token, row, v[j]);
  }
}

}  // namespace gossamer
