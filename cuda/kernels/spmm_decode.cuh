// SpMM for small n (decode): out[n, m] = epilogue(x[n, k] · Wᵀ), W in records. Load as sparse, compute as dense (Flash-LLM): records stream
// through per-warp rings, a decoder expands them into mma fragments, fp32 accumulators stay in registers.
//
// Work: spmm_schedule.h. A CTA has kRowWarps row warps x kGroups groups along k. At a segment's end the groups' sums are added in shared
// memory in a fixed order; a segment that covers only part of k goes to `partials`, and whoever comes last adds the parts in CTA order: the
// result never depends on timing.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/record_ring.cuh"
#include "kernels/spmm_decoders.cuh"
#include "kernels/spmm_params.h"
#include "kernels/spmm_schedule.h"

namespace gossamer {

template <bool kIsBf16>
struct HalfType {
  using type = __half;
};
template <>
struct HalfType<true> {
  using type = __nv_bfloat16;
};

__device__ __forceinline__ float apply_activation(float v, SpmmActivation activation) {
  switch (activation) {
    case SpmmActivation::none: return v;
    case SpmmActivation::relu: return fmaxf(v, 0.0F);
    case SpmmActivation::gelu: return 0.5F * v * (1.0F + erff(v * 0.70710678118654752F));
    case SpmmActivation::gelu_tanh: return 0.5F * v * (1.0F + tanhf(0.79788456080286536F * (v + 0.044715F * v * v * v)));
    case SpmmActivation::silu: return v / (1.0F + __expf(-v));
  }
  return v;
}

// The sums of one record row (32 rows) of one warp: [tile * kNTiles + n tile] is an mma C fragment.
template <int kNTiles>
using Accumulators = float[2 * kNTiles][4];

template <bool kIsBf16, int kNTiles>
__device__ void write_output(const SpmmParams& p, int row_block, int first_n, int lane, const Accumulators<kNTiles>& acc) {
  using Half = typename HalfType<kIsBf16>::type;
#pragma unroll
  for (int t = 0; t < 2 * kNTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = row_block * 32 + t / kNTiles * 16 + lane / 4 + 8 * (i / 2);
      const int n = first_n + t % kNTiles * 8 + 2 * (lane % 4) + i % 2;
      if (row >= p.m || n >= p.n) continue;
      float v = acc[t][i];
      if (p.bias != nullptr) v += static_cast<float>(static_cast<const Half*>(p.bias)[row]);
      v = apply_activation(v, p.activation);
      const std::int64_t o = n * p.ldo + row, r = n * p.ldr + row;
      if (p.out_type == SpmmOut::f32) {
        if (p.residual != nullptr) v += static_cast<const float*>(p.residual)[r];
        static_cast<float*>(p.out)[o] = v;
      } else {
        if (p.residual != nullptr) v += static_cast<float>(static_cast<const Half*>(p.residual)[r]);
        static_cast<Half*>(p.out)[o] = Half(v);
      }
    }
  }
}

// One lane's view of x for one n tile: row n, from column 8 * (lane % 4). A lane beyond n reads row 0: its column of the product is never
// written.
__device__ __forceinline__ const std::uint16_t* x_row(const SpmmParams& p, int n, int lane) {
  return static_cast<const std::uint16_t*>(p.x) + (n < p.n ? n : 0) * p.ldx + 8 * (lane % 4);
}

// The B operand of one tile for one n tile: two 16-byte pieces of a row of x, 32 columns apart; zero beyond k.
template <bool kAligned>
__device__ __forceinline__ void load_x_tile(const std::uint16_t* x, int columns_left, int lane, uint4 (&b)[2]) {
  if (kAligned && columns_left >= 64) {
    b[0] = ptx::load_global_16(x);
    b[1] = ptx::load_global_16(x + 32);
    return;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if constexpr (kAligned) {
      b[i] = 32 * i + 8 * (lane % 4) < columns_left ? ptx::load_global_16(x + 32 * i) : make_uint4(0, 0, 0, 0);
    } else {
      std::uint32_t h[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) h[j] = 32 * i + j + 8 * (lane % 4) < columns_left ? x[32 * i + j] : 0;
      b[i] = make_uint4(h[0] | h[1] << 16, h[2] | h[3] << 16, h[4] | h[5] << 16, h[6] | h[7] << 16);
    }
  }
}

// Walks the records of one warp through all segments of its CTA, ahead of their use.
template <int kRowWarps, int kGroups>
class PrefetchCursor {
 public:
  __device__ PrefetchCursor(const SpmmParams& p, int unit, int unit_end, int row_warp, int group)
      : p_(p), unit_(unit), unit_end_(unit_end), row_warp_(row_warp), group_(group) {
    open();
    if (index_ == index_end_) return;
    begin_ = __ldg(p_.offsets + index_);
    end_ = __ldg(p_.offsets + index_ + 1);
  }

  // Pushes the current record, if one is left, and looks up the next.
  template <typename Ring>
  __device__ __forceinline__ void push_to(Ring& ring) {
    ring.push(p_.data + std::size_t{begin_} * 16, (end_ - begin_) * 16);
    if (index_ == index_end_) return;
    if (++index_ == index_end_) {
      open();
      if (index_ == index_end_) {
        begin_ = end_ = 0;
        return;
      }
      end_ = __ldg(p_.offsets + index_);
    }
    begin_ = end_;
    end_ = __ldg(p_.offsets + index_ + 1);
  }

 private:
  // Moves to the next segment in which this warp has records.
  __device__ void open() {
    index_ = index_end_ = 0;
    while (unit_ < unit_end_ && index_ == index_end_) {
      const int super_row = unit_ / p_.records, k = unit_ - super_row * p_.records;
      const int length = min(p_.records - k, unit_end_ - unit_);
      const int row_block = super_row * kRowWarps + row_warp_;
      unit_ += length;
      if (row_block >= p_.row_blocks) continue;
      index_ = row_block * p_.records + k + length * group_ / kGroups;
      index_end_ = row_block * p_.records + k + length * (group_ + 1) / kGroups;
    }
  }

  const SpmmParams& p_;
  int unit_, unit_end_, row_warp_, group_;
  int index_ = 0, index_end_ = 0;
  std::uint32_t begin_ = 0, end_ = 0;
};

__device__ __forceinline__ void add_to(float (&sum)[4], const float4& v) {
  sum[0] += v.x;
  sum[1] += v.y;
  sum[2] += v.z;
  sum[3] += v.w;
}

// Adds one partial segment to `partials`; true for the warp that came last, which then holds the sum of all parts in acc.
template <int kRowWarps, int kNTiles>
__device__ bool combine_partials(const SpmmParams& p, const SpmmSchedule& schedule, int super_row, int row_warp, int lane,
                                 Accumulators<kNTiles>& acc) {
  const std::int64_t first_unit = std::int64_t{super_row} * p.records;
  const int first = schedule.owner(first_unit), last = schedule.owner(first_unit + p.records - 1);
  const int pass = blockIdx.y;
  const auto part = [&](int cta) {
    const int slot = schedule.begin(cta) > first_unit ? 0 : 1;
    const std::int64_t index = ((static_cast<std::int64_t>(pass) * schedule.ctas + cta) * 2 + slot) * kRowWarps + row_warp;
    return reinterpret_cast<float4*>(p.partials) + index * (2 * kNTiles * 32) + lane;
  };
  float4* mine = part(blockIdx.x);
#pragma unroll
  for (int t = 0; t < 2 * kNTiles; ++t) __stcg(mine + t * 32, make_float4(acc[t][0], acc[t][1], acc[t][2], acc[t][3]));
  __syncwarp();  // with the release below, orders the stores of all lanes before the ticket
  std::uint32_t arrived = 0;
  std::uint32_t* ticket = p.tickets + (static_cast<std::int64_t>(pass) * schedule.super_rows + super_row) * kRowWarps + row_warp;
  if (lane == 0) arrived = ptx::atomic_add_release_acquire(ticket, 1);
  arrived = __shfl_sync(0xffffffff, arrived, 0);
  if (arrived != static_cast<std::uint32_t>(last - first)) return false;
#pragma unroll
  for (int t = 0; t < 2 * kNTiles; ++t) acc[t][0] = acc[t][1] = acc[t][2] = acc[t][3] = 0.0F;
#pragma unroll 2
  for (int cta = first; cta <= last; ++cta) {
    const float4* theirs = part(cta);
#pragma unroll
    for (int t = 0; t < 2 * kNTiles; ++t) add_to(acc[t], __ldcg(theirs + t * 32));
  }
  if (lane == 0) *ticket = 0;
  return true;
}

template <class Decoder, int kNTiles, int kRowWarps, int kGroups>
struct SpmmSharedLayout {  // byte offsets in dynamic shared memory
  static constexpr int kWarps = kRowWarps * kGroups;
  static constexpr int kBarriers = 0;
  static constexpr int kSums = (kWarps * RecordRing::kBarrierBytes + 127) / 128 * 128;
  static constexpr int kTiles = kSums + kWarps * 2 * kNTiles * 512;
  static constexpr int kRings = kTiles + kWarps * Decoder::kScratchBytes;
  static constexpr int total(int slot_bytes) { return kRings + kWarps * RecordRing::kStages * slot_bytes + Decoder::kOverread; }
};

// CTAs that share an SM: 32 warps in all; with four n tiles a warp needs more registers.
constexpr int resident_ctas(int warps, int n_tiles) { return (n_tiles >= 4 ? 16 : 32) / warps; }

template <class Decoder, bool kIsBf16, int kNTiles, int kRowWarps, int kGroups, bool kAligned>
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

  const int full_records = p.k / 64;
  float4* sums = reinterpret_cast<float4*>(shared + Layout::kSums);
  int segment = 0;
  for (int unit = unit_begin; unit < unit_end; ++segment) {
    const int super_row = unit / p.records, k_begin = unit - super_row * p.records;
    const int length = min(p.records - k_begin, unit_end - unit);
    const int row_block = super_row * kRowWarps + row_warp;
    Accumulators<kNTiles> acc = {};
    if (row_block < p.row_blocks) {
      const int begin = k_begin + length * group / kGroups, end = k_begin + length * (group + 1) / kGroups;
      const std::uint16_t* x[kNTiles];
#pragma unroll
      for (int t = 0; t < kNTiles; ++t) x[t] = x_row(p, first_n + t * 8 + lane / 4, lane) + begin * 64;
      for (int record = begin; record < end; ++record) {
        uint4 b[kNTiles][2];
        const int left = record < full_records ? 64 : p.k - record * 64;
#pragma unroll
        for (int t = 0; t < kNTiles; ++t) {
          load_x_tile<kAligned>(x[t], left, lane, b[t]);
          x[t] += 64;
        }
        Decoder::decode(ring.front(), scratch, lane, [&](int tile, int f, const std::uint32_t (&a)[4]) {
#pragma unroll
          for (int t = 0; t < kNTiles; ++t) {
            const uint4& piece = b[t][f / 2];
            ptx::mma_16x8x16<kIsBf16>(acc[tile * kNTiles + t], a, f % 2 == 0 ? piece.x : piece.z, f % 2 == 0 ? piece.y : piece.w);
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
    for (int t = 0; t < 2 * kNTiles; ++t) *slot(group, t) = make_float4(acc[t][0], acc[t][1], acc[t][2], acc[t][3]);
    __syncthreads();
    if (group == segment % kGroups && row_block < p.row_blocks) {
#pragma unroll
      for (int t = 0; t < 2 * kNTiles; ++t) {
        acc[t][0] = acc[t][1] = acc[t][2] = acc[t][3] = 0.0F;
#pragma unroll
        for (int g = 0; g < kGroups; ++g) add_to(acc[t], *slot(g, t));
      }
      if (length == p.records || combine_partials<kRowWarps, kNTiles>(p, schedule, super_row, row_warp, lane, acc)) {
        write_output<kIsBf16, kNTiles>(p, row_block, first_n, lane, acc);
      }
    }
    unit += length;
  }
}

}  // namespace gossamer
