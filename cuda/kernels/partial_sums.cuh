// Sums of a super row that several blocks, or several teams of a block, share: each leaves its part in global memory, in fragments as wgmma
// has them; the block that comes last adds the parts in a fixed order and takes them through the epilogue, a tile of 16 rows x 8 tokens a
// warp at a time. One rolled loop: unrolled over registers, the code of an epilogue takes longer to fetch than to run.
//
// Or, without tickets, finish_sums_kernel does so behind the product, with all SMs: for super rows of many parts.
#pragma once

#include "kernels/spmm_common.cuh"

namespace gossamer {

// p.partials: [passes][blocks][2][kGroups][kRowWarps][kNTiles][32 lanes] float4. A block has at most two segments that it shares with
// others: its first, in place 0, and its last, in place 1, which it also uses for segments of its own in between.
template <int kNTiles, int kRowWarps, int kGroups>
class PartialSums {
 public:
  static constexpr int kTeam = kRowWarps * kNTiles * 32;  // float4 of one team's part

  __device__ PartialSums(const SpmmParams& p, const SpmmSchedule& schedule, int super_row) : p_(p), super_row_(super_row) {
    const std::int64_t first_unit = std::int64_t{super_row} * p.records;
    first_ = schedule.owner(first_unit);
    last_ = schedule.owner(first_unit + p.records - 1);
    parts_ = reinterpret_cast<float4*>(p.partials) + std::int64_t{blockIdx.y} * schedule.ctas * 2 * kGroups * kTeam;
    ticket_ = p.tickets + std::int64_t{blockIdx.y} * schedule.super_rows + super_row;
  }

  __device__ __forceinline__ void leave(int group, int row_warp, int lane, const Fragments<kNTiles>& acc) const {
    float4* mine = part(static_cast<int>(blockIdx.x)) + group * kTeam + row_warp * kNTiles * 32 + lane;
#pragma unroll
    for (int t = 0; t < kNTiles; ++t) __stcg(mine + t * 32, make_float4(acc[t][0], acc[t][1], acc[t][2], acc[t][3]));
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
    const int first_n = static_cast<int>(blockIdx.y) * kNTiles * 8, n_tiles = min(kNTiles, (p_.n - first_n + 7) / 8);
#pragma unroll 1
    for (int i = warp; i < kRowWarps * n_tiles; i += warps) {
      const int row_warp = i / n_tiles, t = i % n_tiles;
      const float4* from = part(first_) + (row_warp * kNTiles + t) * 32 + lane;
      float sum[4] = {};
#pragma unroll
      for (int g = 0; g < kGroups; ++g) add_to(sum, __ldcg(from + g * kTeam));
      from = part(first_ + 1) + (row_warp * kNTiles + t) * 32 + lane;
#pragma unroll 4
      for (int block = first_; block < last_; ++block) {
#pragma unroll
        for (int g = 0; g < kGroups; ++g) add_to(sum, __ldcg(from + g * kTeam));
        from += 2 * kGroups * kTeam;
      }
      write_fragment<kIsBf16>((super_row_ * kRowWarps + row_warp) * 16 + lane / 4, first_n + t * 8 + 2 * (lane % 4), sum);
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
    const auto value = [&](const void* tensor, std::int64_t i) {
      return p_.out_type == SpmmOut::f32 ? static_cast<const float*>(tensor)[i] : static_cast<float>(static_cast<const Half*>(tensor)[i]);
    };
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = row + i / 2 * 8, n = token + i % 2;
      if (r >= p_.m || n >= p_.n) continue;
      float v = sum[i];
      if (p_.bias != nullptr) v += static_cast<float>(static_cast<const Half*>(p_.bias)[r]);
      v = apply_activation(v, p_.activation);
      if (p_.multiplier != nullptr) v *= value(p_.multiplier, n * p_.ldr + r);
      if (p_.residual != nullptr) v += value(p_.residual, n * p_.ldr + r);
      if (p_.out_type == SpmmOut::f32) {
        static_cast<float*>(p_.out)[n * p_.ldo + r] = v;
      } else {
        static_cast<Half*>(p_.out)[n * p_.ldo + r] = Half(v);
      }
    }
  }

  const SpmmParams& p_;
  int super_row_, first_, last_;
  float4* parts_;
  std::uint32_t* ticket_;
};

inline constexpr int kFinishWarps = 16, kFinishBlocks = 4;  // of each super row

// blocks: of the product's grid. Grid: kFinishBlocks * super rows, passes.
template <bool kIsBf16, int kNTiles, int kRowWarps, int kGroups>
__global__ void __launch_bounds__(kFinishWarps * 32) finish_sums_kernel(const __grid_constant__ SpmmParams p, int blocks) {
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const SpmmSchedule schedule{static_cast<std::int32_t>(gridDim.x) / kFinishBlocks, p.records, blocks};
  const PartialSums<kNTiles, kRowWarps, kGroups> sums(p, schedule, static_cast<int>(blockIdx.x) / kFinishBlocks);
  if (!sums.is_shared()) return;  // its only block has finished it
  const int warp = static_cast<int>(blockIdx.x) % kFinishBlocks * kFinishWarps + static_cast<int>(threadIdx.x) / 32;
  sums.template finish<kIsBf16>(warp, kFinishBlocks * kFinishWarps, static_cast<int>(threadIdx.x) % 32);
}

}  // namespace gossamer
