// SpMM on Hopper for many tokens (sm_90a): as spmm_decode.cuh, but four warps expand 16 rows each into the register operand of wgmma, and
// the activations, packed by pack_x.cuh, come into shared memory by bulk copies: no instruction of the expanding warps touches them.
//
// Two warps share a record, a tile of 16 rows each: the sums of many tokens need registers, and more warps hide the latency of expanding. A
// warpgroup takes 64 rows; kRowGroups warpgroups (a team) share the activations of one stretch of k, kGroups such teams split k. The
// products of one record run while its warps find their way through the next.
#pragma once

#include "device/ptx_wgmma.cuh"
#include "kernels/packed_x.h"
#include "kernels/record_ring.cuh"
#include "kernels/spmm_common.cuh"
#include "kernels/spmm_decoders.cuh"

namespace gossamer {

template <class Decoder, int kNTiles, int kRowGroups, int kGroups>
struct SpmmWgmmaLayout {  // byte offsets in dynamic shared memory
  static constexpr int kWarps = 4 * kRowGroups * kGroups;
  static constexpr int kRings = kWarps / 2;  // one for two warps
  static constexpr int kXStages = 3;
  static constexpr int kDoneStages = 4;
  static constexpr int kXBytes = packed_x_record_bytes(kNTiles);
  static constexpr int kXBarriers = kRings * SharedRecordRing::kBarrierBytes;
  static constexpr int kDoneBarriers = kXBarriers + kGroups * 8 * kXStages;
  static constexpr int kEmptyRecord = (kDoneBarriers + kGroups * 8 * kDoneStages + 127) / 128 * 128;
  static constexpr int kSums = kEmptyRecord + 384;
  static constexpr int kSumTiles = kNTiles < 2 ? kNTiles : 2;  // n tiles that are added across teams, and written, at once
  static constexpr int kX = kSums + (kGroups > 1 ? kGroups - 1 : 1) * 4 * kRowGroups * kSumTiles * 512;
  static constexpr int kTiles = kX + kGroups * kXStages * kXBytes;
  static constexpr int kSlots = kTiles + kWarps * Decoder::kScratchBytes;
  static constexpr int total(int slot_bytes) { return kSlots + kRings * SharedRecordRing::kStages * slot_bytes + Decoder::kOverread; }
};

// Walks the records of x that a team needs through all segments of its CTA, ahead of their use.
template <int kGroups>
class PackedXCursor {
 public:
  __device__ PackedXCursor(const SpmmParams& p, int unit, int unit_end, int group)
      : p_(p), unit_(unit), unit_end_(unit_end), group_(group) {}

  // Starts the copy of the next record's tile, if one is left. One thread.
  __device__ __forceinline__ void push(const std::uint8_t* packed, std::uint32_t to, std::uint32_t bytes, std::uint32_t barrier) {
    while (record_ == end_) {
      if (unit_ >= unit_end_) return;
      const int k = unit_ % p_.records, length = min(p_.records - k, unit_end_ - unit_);
      unit_ += length;
      record_ = k + length * group_ / kGroups;
      end_ = k + length * (group_ + 1) / kGroups;
    }
    ptx::barrier_expect(barrier, bytes);
    ptx::bulk_copy_reused(to, packed + static_cast<std::int64_t>(record_) * bytes, bytes, barrier);
    ++record_;
  }

 private:
  const SpmmParams& p_;
  int unit_, unit_end_, group_;
  int record_ = 0, end_ = 0;
};

template <class Decoder, bool kIsBf16, int kNTiles, int kRowGroups, int kGroups>
__global__ void __launch_bounds__(kRowGroups * kGroups * 128, 1) spmm_wgmma_kernel(const __grid_constant__ SpmmParams p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Layout = SpmmWgmmaLayout<Decoder, kNTiles, kRowGroups, kGroups>;
  constexpr int kRowWarps = 4 * kRowGroups, kRowBlocks = kRowWarps / 2, kTeam = kRowWarps * 32, kWgmmaTiles = kNTiles < 8 ? kNTiles : 8;
  extern __shared__ __align__(128) std::uint8_t shared[];
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const int row_warp = warp % kRowWarps, group = warp / kRowWarps;
  const int row = row_warp / 2, tile = row_warp % 2;  // of the team's records, and of a record
  const std::uint32_t base = ptx::shared_address(shared);
  const std::uint32_t scratch = base + Layout::kTiles + warp * Decoder::kScratchBytes;

  const SpmmSchedule schedule{(p.row_blocks + kRowBlocks - 1) / kRowBlocks, p.records, static_cast<std::int32_t>(gridDim.x)};
  const int unit_begin = schedule.begin(blockIdx.x), unit_end = schedule.begin(blockIdx.x + 1);

  // x_ready[s]: the tile is there. done[s]: every warp of the team is done with the products of one record.
  const std::uint32_t x_ready = base + Layout::kXBarriers + group * 8 * Layout::kXStages;
  const std::uint32_t done = base + Layout::kDoneBarriers + group * 8 * Layout::kDoneStages;
  if (threadIdx.x % kTeam == 0) {
    for (int s = 0; s < Layout::kXStages; ++s) ptx::barrier_init(x_ready + 8 * s, 1);
    for (int s = 0; s < Layout::kDoneStages; ++s) ptx::barrier_init(done + 8 * s, kRowWarps);
  }
  if (threadIdx.x < 96) ptx::store_shared_u32(base + Layout::kEmptyRecord + 4 * threadIdx.x, 0);
  // The first warp of a pair fills the ring; both read it.
  SharedRecordRing ring(base + Layout::kSlots + warp / 2 * SharedRecordRing::kStages * p.slot_bytes, p.slot_bytes,
                        base + warp / 2 * SharedRecordRing::kBarrierBytes, tile == 0, lane);
  PrefetchCursor<kRowBlocks, kGroups> cursor(p, unit_begin, unit_end, row, group);
  if (tile == 0) {
#pragma unroll
    for (int s = 0; s < SharedRecordRing::kStages; ++s) cursor.push_to(ring.ahead(s));
  }
  for (int i = lane * 16; i < Decoder::kScratchBytes; i += 512) ptx::zero_shared_16bytes(scratch + i);
  __syncthreads();
  // Programmatic dependent launch: weights do not depend on the kernel before; x, out and the workspace do.
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();

  const std::uint32_t x_stages = base + Layout::kX + group * Layout::kXStages * Layout::kXBytes;
  const std::uint8_t* packed_x = p.packed_x + static_cast<std::int64_t>(blockIdx.y) * p.records * Layout::kXBytes;
  PackedXCursor<kGroups> x_cursor(p, unit_begin, unit_end, group);
  const bool fills_x = threadIdx.x % kTeam == 0;
  const auto push_x = [&](std::uint32_t to) {
    x_cursor.push(packed_x, x_stages + to * Layout::kXBytes, Layout::kXBytes, x_ready + 8 * to);
  };
  if (fills_x) {
    for (int s = 0; s < Layout::kXStages; ++s) push_x(s);
  }

  float4* sums = reinterpret_cast<float4*>(shared + Layout::kSums);
  std::uint32_t stage = 0, parity = 0, taken = 0;  // of x; records so far
  const auto arrive_done = [&](std::uint32_t record) {
    if (lane == 0) ptx::barrier_arrive(done + 8 * (record % Layout::kDoneStages));
  };
  int segment = 0;
  for (int unit = unit_begin; unit < unit_end; ++segment) {
    const int super_row = unit / p.records, k_begin = unit - super_row * p.records;
    const int length = min(p.records - k_begin, unit_end - unit);
    const int row_block = super_row * kRowBlocks + row;
    const bool has_rows = row_block < p.row_blocks;
    const int begin = k_begin + length * group / kGroups, end = k_begin + length * (group + 1) / kGroups;
    Fragments<kNTiles> acc = {};
    std::uint32_t a[4][4];  // the products of one record read it until those of the next are prepared
    for (int record = begin; record < end; ++record) {
      if (taken >= 2 && tile == 0) {  // the record before the last is done with: its slots may be filled
        ptx::barrier_wait(done + 8 * ((taken - 2) % Layout::kDoneStages), (taken - 2) / Layout::kDoneStages & 1);
        if (has_rows) cursor.push_to(ring.ahead(2));
        if (fills_x) push_x(stage == Layout::kXStages - 1 ? 0 : stage + 1);
      }
      // A warp beyond the last row takes part in the products of its warpgroup with zeros.
      const std::uint32_t at = has_rows ? ring.front() : base + Layout::kEmptyRecord;
      Decoder::decode_one(
          at, scratch, lane, tile,
          [&] {  // before the first write to a: the products of the record before still read it
            ptx::wgmma_wait<0>();
            if (record > begin) arrive_done(taken - 1);
          },
          [&](int f, const std::uint32_t (&fragment)[4]) {
#pragma unroll
            for (int i = 0; i < 4; ++i) a[f][i] = fragment[i];
          });
      ptx::barrier_wait(x_ready + 8 * stage, parity);
      const std::uint64_t b = ptx::wgmma_descriptor(x_stages + stage * Layout::kXBytes, kPackedXHalfStride, kPackedXTokenStride);
      ptx::wgmma_fence();
#pragma unroll
      for (int f = 0; f < 4; ++f) {
#pragma unroll
        for (int t = 0; t < kNTiles; t += kWgmmaTiles) {
          ptx::wgmma_rs<ptx::WgmmaHalves<kIsBf16>, kWgmmaTiles>(acc + t, a[f], b + (f * kNTiles * 256 + t * kPackedXTokenStride) / 16);
        }
      }
      ptx::wgmma_commit();
      if (has_rows) ring.advance();
      ++taken;
      if (++stage == Layout::kXStages) {
        stage = 0;
        parity ^= 1;
      }
    }
    ptx::wgmma_wait<0>();
    if (begin < end) arrive_done(taken - 1);

    const int combiner = segment % kGroups;
    if constexpr (kGroups > 1) {
      constexpr int kSumTiles = Layout::kSumTiles;
      const auto slot = [&](int g, int t) {
        return sums + (((g < combiner ? g : g - 1) * kRowWarps + row_warp) * kSumTiles + t) * 32 + lane;
      };
#pragma unroll
      for (int first = 0; first < kNTiles; first += kSumTiles) {
        __syncthreads();  // the buffer has been read
        if (group != combiner) {
#pragma unroll
          for (int t = 0; t < kSumTiles; ++t) {
            *slot(group, t) = make_float4(acc[first + t][0], acc[first + t][1], acc[first + t][2], acc[first + t][3]);
          }
        }
        __syncthreads();
        if (group != combiner) continue;
#pragma unroll
        for (int t = 0; t < kSumTiles; ++t) {
          float (&mine)[4] = acc[first + t];
          float total[4] = {};
#pragma unroll
          for (int g = 0; g < kGroups; ++g) add_to(total, g == combiner ? make_float4(mine[0], mine[1], mine[2], mine[3]) : *slot(g, t));
#pragma unroll
          for (int i = 0; i < 4; ++i) mine[i] = total[i];
        }
      }
    }
    if (group == combiner && has_rows &&
        (length == p.records || combine_partials<kRowWarps, kNTiles>(p, schedule, super_row, row_warp, lane, acc))) {
      float* buffer = reinterpret_cast<float*>(sums) + row_warp * Layout::kSumTiles * 128;
      write_output<kIsBf16, 16, kNTiles, Layout::kSumTiles>(p, row_block * 32 + tile * 16, blockIdx.y * kNTiles * 8, lane, acc, buffer);
    }
    unit += length;
  }
#endif
}

}  // namespace gossamer
