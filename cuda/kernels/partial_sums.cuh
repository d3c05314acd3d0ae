// Sums of a super row that several blocks, or several teams of a block, share: each leaves its part in global memory, in fragments as wgmma
// has them; the block that comes last adds the parts in a fixed order and takes them through the epilogue, a tile of 16 rows x 8 tokens a
// warp at a time. One rolled loop: unrolled over registers, the code of an epilogue takes longer to fetch than to run.
#pragma once

#include <type_traits>

#include "kernels/spmm_bytes_params.h"
#include "kernels/spmm_common.cuh"

namespace gossamer {

// A sum with the scales of its row and token, if there are any.
__device__ __forceinline__ float scaled(const SpmmParams& /*p*/, float sum, int /*row*/, int /*token*/) { return sum; }
__device__ __forceinline__ float scaled(const SpmmBytesParams& p, float sum, int row, int token) {
  return sum * (p.row_scales[row] * p.token_scales[token]);
}

// partials: [passes][blocks][2][kGroups][kRowWarps][kNTiles][32 lanes] float4. A block has at most two segments that it shares with
// others: its first, in place 0, and its last, in place 1, which it also uses for segments of its own in between.
template <int kNTiles, int kRowWarps, int kGroups, class Params = SpmmParams>
class PartialSums {
 public:
  static constexpr int kTeam = kRowWarps * kNTiles * 32;  // float4 of one team's part

  __device__ PartialSums(const Params& params, const SpmmSchedule& schedule, int super_row)
      : params_(params), p_(base_of(params)), super_row_(super_row) {
    const SpmmParams& p = p_;
    const std::int64_t first_unit = std::int64_t{super_row} * p.records;
    first_ = schedule.owner(first_unit);
    last_ = schedule.owner(first_unit + p.records - 1);
    parts_ = reinterpret_cast<float4*>(p.partials) + std::int64_t{blockIdx.y} * schedule.ctas * 2 * kGroups * kTeam;
    ticket_ = p.tickets + std::int64_t{blockIdx.y} * schedule.super_rows + super_row;
  }

  // sums: of wgmma_sums.cuh.
  template <class Sums>
  __device__ __forceinline__ void leave(int group, int row_warp, int lane, Sums& sums) const {
    float4* mine = part(static_cast<int>(blockIdx.x)) + group * kTeam + row_warp * kNTiles * 32 + lane;
#pragma unroll
    for (int t = 0; t < kNTiles; ++t) __stcg(mine + t * 32, sums.at(t));
  }
  __device__ __forceinline__ bool is_shared() const { return first_ != last_; }
  // Whether all other blocks have left their parts; one thread of the block, once all its own are left. Makes the ticket ready for the next
  // product.
  __device__ __forceinline__ bool is_last() const {
    if (ptx::atomic_add_release_acquire(ticket_, 1) != static_cast<std::uint32_t>(last_ - first_)) return false;
    *ticket_ = 0;
    return true;
  }
  // Adds up, and writes out. All `warps` warps of the block.
  template <bool kIsBf16>
  __device__ void finish(int warp, int warps, int lane) const {
    constexpr int kTiles = kRowWarps * kNTiles, kBatch = 4;  // tiles whose loads are in flight together
#pragma unroll 1
    for (int tile = warp; tile < kTiles; tile += kBatch * warps) {
      float sums[kBatch][4] = {};
#pragma unroll 2
      for (int block = first_; block <= last_; ++block) {
        const float4* from = part(block) + tile * 32 + lane;
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
#pragma unroll
          for (int b = 0; b < kBatch; ++b) {
            if (tile + b * warps < kTiles) add_to(sums[b], __ldcg(from + g * kTeam + b * warps * 32));
          }
        }
      }
      float rolled[kBatch][4];  // the loop below stays rolled: apart, so that the sums are in registers
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
#pragma unroll
        for (int i = 0; i < 4; ++i) rolled[b][i] = sums[b][i];
      }
#pragma unroll 1
      for (int b = 0; b < kBatch; ++b) {
        const int at = tile + b * warps;
        if (at >= kTiles) break;
        write_fragment<kIsBf16>((super_row_ * kRowWarps + at / kNTiles) * 16 + lane / 4,
                                (static_cast<int>(blockIdx.y) * kNTiles + at % kNTiles) * 8 + 2 * (lane % 4), rolled[b]);
      }
    }
  }

 private:
  __device__ __forceinline__ float4* part(int block) const {
    return parts_ + (std::int64_t{block} * 2 + (block == first_ ? 1 : 0)) * (kGroups * kTeam);
  }
  // sum: of rows `row` and row + 8, of two tokens each.
  template <bool kIsBf16>
  __device__ __forceinline__ void write_fragment(int row, int token, float (&sum)[4]) const {
    using Half = typename HalfType<kIsBf16>::type;
    const bool rows[2] = {row < p_.m, row + 8 < p_.m}, tokens[2] = {token < p_.n, token + 1 < p_.n};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (rows[i / 2] && tokens[i % 2]) sum[i] = scaled(params_, sum[i], row + i / 2 * 8, token + i % 2);
    }
    if (p_.bias != nullptr || p_.activation != SpmmActivation::none || p_.multiplier != nullptr || p_.residual != nullptr) {
      const auto value = [&](const void* tensor, std::int64_t i) {
        return p_.out_type == SpmmOut::f32 ? static_cast<const float*>(tensor)[i] : static_cast<float>(static_cast<const Half*>(tensor)[i]);
      };
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!rows[i / 2] || !tokens[i % 2]) continue;
        const int r = row + i / 2 * 8, n = token + i % 2;
        if (p_.bias != nullptr) sum[i] += static_cast<float>(static_cast<const Half*>(p_.bias)[r]);
        sum[i] = apply_activation(sum[i], p_.activation);
        if (p_.multiplier != nullptr) sum[i] *= value(p_.multiplier, n * p_.ldr + r);
        if (p_.residual != nullptr) sum[i] += value(p_.residual, n * p_.ldr + r);
      }
    }
    const auto store = [&](auto* out) {
      out += token * p_.ldo + row;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (rows[i / 2] && tokens[i % 2]) out[i % 2 * p_.ldo + i / 2 * 8] = std::remove_pointer_t<decltype(out)>(sum[i]);
      }
    };
    p_.out_type == SpmmOut::f32 ? store(static_cast<float*>(p_.out)) : store(static_cast<Half*>(p_.out));
  }

  const Params& params_;
  const SpmmParams& p_;
  int super_row_, first_, last_;
  float4* parts_;
  std::uint32_t* ticket_;
};

}  // namespace gossamer
