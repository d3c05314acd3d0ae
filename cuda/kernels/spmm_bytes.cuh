// SpMM for small n and 8-bit weights. Schedule, rings, partial sums and epilogue are those of spmm_decode.cuh; fragments come from
// spmm_byte_decoders.cuh and meet x as f16 or as i8.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/record_ring.cuh"
#include "kernels/spmm_byte_decoders.cuh"
#include "kernels/spmm_bytes_params.h"
#include "kernels/spmm_common.cuh"

namespace gossamer {

// The B operands of a lane, one record after the other: kPieces times 16 bytes per n tile of 8 tokens. Straight from x as f16, whose rows
// are 16-byte aligned and k % 8 == 0. A lane beyond n reads row 0: its column of the product is never written.
template <int kNTiles>
class DirectReader {
 public:
  static constexpr int kPieces = 2;
  __device__ DirectReader(const SpmmParams& p, int first_n, int lane, int record) : left_(p.k - record * 64 - 8 * (lane % 4)) {
#pragma unroll
    for (int t = 0; t < kNTiles; ++t) {
      const int n = first_n + t * 8 + lane / 4;
      x_[t] = static_cast<const std::uint16_t*>(p.x) + (n < p.n ? n : 0) * p.ldx + record * 64 + 8 * (lane % 4);
    }
  }
  __device__ __forceinline__ void next(uint4 (&b)[kNTiles][kPieces]) {
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

// From packed_x.h's fragments (two pieces) or bytes (one): a load touches 512 contiguous bytes.
template <int kNTiles, int kPiecesOf>
class PackedReader {
 public:
  static constexpr int kPieces = kPiecesOf;
  __device__ PackedReader(const SpmmParams& p, int first_n, int lane, int record)
      : at_(reinterpret_cast<const uint4*>(p.packed_x) +
            (static_cast<std::int64_t>(first_n / (8 * kNTiles)) * p.records + record) * kNTiles * kPieces * 32 + lane) {}
  __device__ __forceinline__ void next(uint4 (&b)[kNTiles][kPieces]) {
#pragma unroll
    for (int t = 0; t < kNTiles; ++t) {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) b[t][i] = ptx::load_global_16(at_ + (t * kPieces + i) * 32);
    }
    at_ += kNTiles * kPieces * 32;
  }

 private:
  const uint4* at_;
};

// Weights widened to f16 times x as f16, fp32 sums.
template <bool kPackedX, int kNTiles>
struct WidenedProduct {
  using Reader = std::conditional_t<kPackedX, PackedReader<kNTiles, 2>, DirectReader<kNTiles>>;
  __device__ static __forceinline__ void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    ptx::mma_16x8x16<false>(c, a, b0, b1);
  }
  __device__ static __forceinline__ float4 to_float(const float (&c)[4]) { return make_float4(c[0], c[1], c[2], c[3]); }
};

// i8 times i8. c holds the bits of s32 sums, which cannot overflow up to k = 2^31 / 2^14.
template <bool kPackedX, int kNTiles>
struct IntegerProduct {
  static_assert(kPackedX);
  using Reader = PackedReader<kNTiles, 1>;
  __device__ static __forceinline__ void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    ptx::mma_16x8x32_s8(c, a, b0, b1);
  }
  __device__ static __forceinline__ float4 to_float(const float (&c)[4]) {
    return make_float4(static_cast<float>(__float_as_int(c[0])), static_cast<float>(__float_as_int(c[1])),
                       static_cast<float>(__float_as_int(c[2])), static_cast<float>(__float_as_int(c[3])));
  }
};

template <class Decoder, int kNTiles, int kRowWarps, int kGroups>
struct SpmmBytesLayout {  // byte offsets in dynamic shared memory
  static constexpr int kWarps = kRowWarps * kGroups;
  static constexpr int kBarriers = 0;
  static constexpr int kSums = (kWarps * RecordRing::kBarrierBytes + 127) / 128 * 128;
  static constexpr int kScratch = kSums + kWarps * 2 * kNTiles * 512;
  static constexpr int kRings = kScratch + kWarps * Decoder::kScratchBytes;
  static constexpr int total(int slot_bytes) { return kRings + kWarps * 2 * slot_bytes + Decoder::kOverread; }
};

// acc: C fragments of 32 rows, tile by tile, by kNTiles * 8 tokens.
template <int kNTiles>
__device__ __forceinline__ void scale_sums(const SpmmBytesParams& p, int first_row, int first_n, int lane, Fragments<2 * kNTiles>& acc) {
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + 16 * tile + lane / 4 + 8 * (i / 2);
      const float scale = row < p.base.m ? p.row_scales[row] : 0.0F;
#pragma unroll
      for (int t = 0; t < kNTiles; ++t) {
        acc[tile * kNTiles + t][i] *= p.token_scales == nullptr ? scale : scale * p.token_scales[first_n + 8 * t + 2 * (lane % 4) + i % 2];
      }
    }
  }
}

// CTAs that share an SM: 32 warps in all; with four n tiles a warp needs more registers.
constexpr int resident_byte_ctas(int warps, int n_tiles) { return (n_tiles >= 4 ? 16 : 32) / warps; }

template <class Decoder, class Product, bool kIsBf16, int kNTiles, int kRowWarps, int kGroups>
__global__ void __launch_bounds__(kRowWarps * kGroups * 32, resident_byte_ctas(kRowWarps* kGroups, kNTiles))
    spmm_bytes_kernel(const __grid_constant__ SpmmBytesParams params) {
  using Layout = SpmmBytesLayout<Decoder, kNTiles, kRowWarps, kGroups>;
  const SpmmParams& p = params.base;
  extern __shared__ __align__(128) std::uint8_t shared[];
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const int row_warp = warp % kRowWarps, group = warp / kRowWarps;
  const std::uint32_t base = ptx::shared_address(shared);
  const std::uint32_t scratch = base + Layout::kScratch + warp * Decoder::kScratchBytes;
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
  Decoder::prepare(scratch, lane);
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
      typename Product::Reader x(p, first_n, lane, begin);
      for (int record = begin; record < end; ++record) {
        uint4 b[kNTiles][Product::Reader::kPieces];
        x.next(b);
        Decoder::decode(ring.front(), scratch, lane, [&](int tile, int f, const std::uint32_t (&a)[4]) {
#pragma unroll
          for (int t = 0; t < kNTiles; ++t) {
            const uint4& piece = b[t][f / 2];
            Product::multiply(acc[tile * kNTiles + t], a, f % 2 == 0 ? piece.x : piece.z, f % 2 == 0 ? piece.y : piece.w);
          }
        });
        __syncwarp();  // every lane has read the record: its slot may be written again
        cursor.push_to(ring);
        ring.advance();
      }
    }
    const auto slot = [&](int g, int t) { return sums + ((g * kRowWarps + row_warp) * 2 * kNTiles + t) * 32 + lane; };
    if (segment > 0) __syncthreads();  // the sums of the segment before have been read
#pragma unroll
    for (int t = 0; t < 2 * kNTiles; ++t) *slot(group, t) = Product::to_float(acc[t]);
    __syncthreads();
    if (group == segment % kGroups && row_block < p.row_blocks) {
#pragma unroll
      for (int t = 0; t < 2 * kNTiles; ++t) {
        acc[t][0] = acc[t][1] = acc[t][2] = acc[t][3] = 0.0F;
#pragma unroll
        for (int g = 0; g < kGroups; ++g) add_to(acc[t], *slot(g, t));
      }
      if (length == p.records || combine_partials<kRowWarps, 2 * kNTiles>(p, schedule, super_row, row_warp, lane, acc)) {
        scale_sums<kNTiles>(params, row_block * 32, first_n, lane, acc);
        write_output<kIsBf16, 32, kNTiles, kNTiles>(p, row_block * 32, first_n, lane, acc, reinterpret_cast<float*>(slot(group, 0) - lane));
      }
    }
    unit += length;
  }
}

}  // namespace gossamer
