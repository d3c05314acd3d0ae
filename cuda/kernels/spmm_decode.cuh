// SpMM for small n (decode): out[n, m] = epilogue(x[n, k] · Wᵀ), W in records. Load as sparse, compute as dense (Flash-LLM): records stream
// through per-warp rings, a decoder expands them into mma fragments, fp32 accumulators stay in registers.
//
// Work: spmm_schedule.h. A CTA has kRowWarps row warps x kGroups groups along k. At a segment's end the groups' sums are added in shared
// memory in a fixed order; a segment that covers only part of k goes to `partials`, and whoever comes last adds the parts in CTA order: the
// result never depends on timing.
#pragma once

#include <cstdint>

#include "kernels/packed_x.h"
#include "kernels/record_ring.cuh"
#include "kernels/spmm_common.cuh"
#include "kernels/spmm_decoders.cuh"
#include "kernels/two_four_decoder.cuh"

namespace gossamer {

// The B operands of a lane, one record after the other, for one n tile each: two 16-byte pieces of a row of x, 32 columns apart.
template <bool kIsPacked, int kNTiles>
class XReader;

// Straight from x, whose rows are 16-byte aligned and k % 8 == 0. A load touches eight rows, so eight lines of L1. A lane beyond n reads
// row 0: its column of the product is never written.
template <int kNTiles>
class XReader<false, kNTiles> {
 public:
  __device__ XReader(const SpmmParams& p, int first_n, int lane, int record) : left_(p.k - record * 64 - 8 * (lane % 4)) {
#pragma unroll
    for (int t = 0; t < kNTiles; ++t) {
      const int n = first_n + t * 8 + lane / 4;
      x_[t] = static_cast<const std::uint16_t*>(p.x) + (n < p.n ? n : 0) * p.ldx + record * 64 + 8 * (lane % 4);
    }
  }
  __device__ __forceinline__ void next(uint4 (&b)[kNTiles][2]) {
#pragma unroll
    for (int t = 0; t < kNTiles; ++t) {
      b[t][0] = left_ > 0 ? ptx::load_global_16(x_[t]) : make_uint4(0, 0, 0, 0);
      b[t][1] = left_ > 32 ? ptx::load_global_16(x_[t] + 32) : make_uint4(0, 0, 0, 0);
      x_[t] += 64;
    }
    left_ -= 64;
  }

 private:
  const std::uint16_t* x_[kNTiles];
  int left_;  // columns from this lane's first on
};

// From packed_x.h's fragments: a load touches 512 contiguous bytes.
template <int kNTiles>
class XReader<true, kNTiles> {
 public:
  __device__ XReader(const SpmmParams& p, int first_n, int lane, int record)
      : at_(reinterpret_cast<const uint4*>(p.packed_x) +
            (static_cast<std::int64_t>(first_n / (8 * kNTiles)) * p.records + record) * kNTiles * 64 + lane) {}
  __device__ __forceinline__ void next(uint4 (&b)[kNTiles][2]) {
#pragma unroll
    for (int t = 0; t < kNTiles; ++t) {
      b[t][0] = ptx::load_global_16(at_ + t * 64);
      b[t][1] = ptx::load_global_16(at_ + t * 64 + 32);
    }
    at_ += kNTiles * 64;
  }

 private:
  const uint4* at_;
};

// What a decoder does with its fragments: multiplies them by the record's share of x.
template <bool kIsBf16, int kNTiles>
struct Multiply {
  Fragments<2 * kNTiles>& acc;
  const uint4 (&b)[kNTiles][2];

  __device__ __forceinline__ void operator()(int tile, int f, const std::uint32_t (&a)[4]) const {
#pragma unroll
    for (int t = 0; t < kNTiles; ++t) {
      const uint4& piece = b[t][f / 2];
      ptx::mma_16x8x16<kIsBf16>(acc[tile * kNTiles + t], a, f % 2 == 0 ? piece.x : piece.z, f % 2 == 0 ? piece.y : piece.w);
    }
  }
  template <int kFragment>
  __device__ __forceinline__ void slots(int tile, const std::uint32_t (&a)[4], std::uint32_t metadata) const {
    sparse<kFragment>(tile, kFragment, a, metadata);
  }
  __device__ __forceinline__ void rest(int tile, int fragment, const std::uint32_t (&a)[4]) const {
    sparse<0>(tile, fragment, a, TwoFourDecoder::kRestMetadata);
  }

 private:
  template <int kSelector>
  __device__ __forceinline__ void sparse(int tile, int fragment, const std::uint32_t (&a)[4], std::uint32_t metadata) const {
#pragma unroll
    for (int t = 0; t < kNTiles; ++t) {
      const uint4& piece = b[t][fragment];
      const std::uint32_t columns[4] = {piece.x, piece.y, piece.z, piece.w};  // TwoFourGroup::column
      ptx::mma_sparse_16x8x32<kIsBf16, kSelector>(acc[tile * kNTiles + t], a, columns, metadata);
    }
  }
};

template <class Decoder, int kNTiles, int kRowWarps, int kGroups>
struct SpmmSharedLayout {  // byte offsets in dynamic shared memory
  static constexpr int kWarps = kRowWarps * kGroups;
  static constexpr int kBarriers = 0;
  static constexpr int kSums = (kWarps * RecordRing::kBarrierBytes + 127) / 128 * 128;
  static constexpr int kTiles = kSums + kWarps * 2 * kNTiles * 512;
  static constexpr int kRings = kTiles + kWarps * Decoder::kScratchBytes;
  static constexpr int total(int slot_bytes) { return kRings + kWarps * 2 * slot_bytes + Decoder::kOverread; }
};

// CTAs that share an SM: 32 warps in all; with four n tiles a warp needs more registers.
constexpr int resident_ctas(int warps, int n_tiles) { return (n_tiles >= 4 ? 16 : 32) / warps; }

template <class Decoder, bool kIsBf16, int kNTiles, int kRowWarps, int kGroups, bool kPackedX>
__global__ void __launch_bounds__(kRowWarps * kGroups * 32, resident_ctas(kRowWarps* kGroups, kNTiles))
    spmm_decode_kernel(const __grid_constant__ SpmmParams p) {
  using Layout = SpmmSharedLayout<Decoder, kNTiles, kRowWarps, kGroups>;
  extern __shared__ __align__(128) std::uint8_t shared[];
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const int row_warp = warp % kRowWarps, group = warp / kRowWarps;
  const std::uint32_t base = ptx::shared_address(shared);
  const std::uint32_t scratch = base + Layout::kTiles + warp * Decoder::kScratchBytes;
  const int first_n = blockIdx.y * kNTiles * 8;

  const SpmmSchedule schedule{(p.row_blocks + kRowWarps - 1) / kRowWarps, p.records, static_cast<std::int32_t>(gridDim.x)};
  const int unit_begin = schedule.begin(blockIdx.x), unit_end = schedule.begin(blockIdx.x + 1);

  RecordRing ring(base + Layout::kRings + warp * 2 * p.slot_bytes, p.slot_bytes,
                  base + Layout::kBarriers + warp * RecordRing::kBarrierBytes, lane);
  PrefetchCursor<kRowWarps, kGroups> cursor(p, unit_begin, unit_end, row_warp, group);
  cursor.push_to(ring);
  ring.advance();
  cursor.push_to(ring);
  ring.advance();
  ring.start();
  for (int i = lane * 16; i < Decoder::kScratchBytes; i += 512) ptx::zero_shared_16bytes(scratch + i);
  __syncwarp();
  // Programmatic dependent launch: weights do not depend on the kernel before; x, out and the workspace do.
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();

  float4* sums = reinterpret_cast<float4*>(shared + Layout::kSums);
  int segment = 0;
  for (int unit = unit_begin; unit < unit_end; ++segment) {
    const int super_row = unit / p.records, k_begin = unit - super_row * p.records;
    const int length = min(p.records - k_begin, unit_end - unit);
    const int row_block = super_row * kRowWarps + row_warp;
    Fragments<2 * kNTiles> acc = {};
    if (row_block < p.row_blocks) {
      const int begin = k_begin + length * group / kGroups, end = k_begin + length * (group + 1) / kGroups;
      XReader<kPackedX, kNTiles> x(p, first_n, lane, begin);
      for (int record = begin; record < end; ++record) {
        uint4 b[kNTiles][2];
        x.next(b);
        Decoder::decode(ring.front(), scratch, lane, Multiply<kIsBf16, kNTiles>{acc, b});
        __syncwarp();  // every lane has read the record: its slot may be written again
        cursor.push_to(ring);
        ring.advance();
      }
    }
    if (segment > 0) __syncthreads();  // the sums of the segment before have been read
    const auto slot = [&](int g, int t) { return sums + ((g * kRowWarps + row_warp) * 2 * kNTiles + t) * 32 + lane; };
#pragma unroll
    for (int t = 0; t < 2 * kNTiles; ++t) *slot(group, t) = make_float4(acc[t][0], acc[t][1], acc[t][2], acc[t][3]);
    __syncthreads();
    constexpr int kEnding = ending_warps(kGroups, kNTiles), kShare = 2 * kNTiles / kEnding;
    const int share = (group + kGroups - segment % kGroups) % kGroups;
    if (share < kEnding && row_block < p.row_blocks) {
      Fragments<kShare> sum = {};
#pragma unroll
      for (int t = 0; t < kShare; ++t) {
#pragma unroll
        for (int g = 0; g < kGroups; ++g) add_to(sum[t], *slot(g, share * kShare + t));
      }
      if (length == p.records ||
          combine_partials<kRowWarps * kEnding, kShare>(p, schedule, super_row, row_warp * kEnding + share, lane, sum)) {
        float* buffer = reinterpret_cast<float*>(slot(group, share * kShare) - lane);  // nobody else's
        if constexpr (kEnding == 1) {
          write_output<kIsBf16, 32, kNTiles, kNTiles>(p, row_block * 32, first_n, lane, sum, buffer);
        } else {
          write_output<kIsBf16, 16, 1, 1>(p, row_block * 32 + share / kNTiles * 16, first_n + share % kNTiles * 8, lane, sum, buffer);
        }
      }
    }
    unit += length;
  }
}

}  // namespace gossamer
