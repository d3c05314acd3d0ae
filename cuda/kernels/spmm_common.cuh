// What the SpMM kernels for few and for many tokens share: the epilogue, the walk over records, the combination of partial sums.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "device/ptx.cuh"
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

// Sums in registers: [i] is an mma C fragment, 16 rows x 8 tokens.
template <int kCount>
using Fragments = float[kCount][4];

// Sums in shared memory on their way out: lines of 32 floats, a line holds kRows rows of 32 / kRows tokens. Reads and writes of a warp are
// contiguous in memory then, and free of bank conflicts with this swizzle of the column.
template <int kRows>
__device__ __forceinline__ int line_swizzle(int line) {
  return (kRows == 32 ? line / 2 : line) % 4 * 8;
}

// Takes kRows rows of kTokens tokens through the epilogue and out. Loops stay rolled: this code runs once per row block, and fetching it
// would take longer than running it.
template <bool kIsBf16, int kRows, int kTokens>
__device__ void write_lines(const SpmmParams& p, int first_row, int first_n, int lane, float* lines) {
  using Half = typename HalfType<kIsBf16>::type;
  constexpr int kPerLine = 32 / kRows;
  const int row = first_row + lane % kRows;
  const int token = first_n + lane / kRows;                                           // of line 0
  const int count = (min(first_n + kTokens, p.n) - token + kPerLine - 1) / kPerLine;  // lines
  if (row >= p.m) return;
  if (p.bias != nullptr || p.activation != SpmmActivation::none) {
    const float bias = p.bias != nullptr ? static_cast<float>(static_cast<const Half*>(p.bias)[row]) : 0.0F;
#pragma unroll 1
    for (int l = 0; l < count; ++l) {
      float& v = lines[l * 32 + (lane ^ line_swizzle<kRows>(l))];
      v = apply_activation(v + bias, p.activation);
    }
  }
  const auto value = [&](const void* tensor, std::int64_t i) {
    return p.out_type == SpmmOut::f32 ? static_cast<const float*>(tensor)[i] : static_cast<float>(static_cast<const Half*>(tensor)[i]);
  };
  constexpr int kBatch = kTokens / kPerLine < 8 ? kTokens / kPerLine : 8;  // loads in flight
#pragma unroll 1
  for (int begin = 0; begin < count; begin += kBatch) {
    float v[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) v[i] = lines[(begin + i) * 32 + (lane ^ line_swizzle<kRows>(begin + i))];
    const std::int64_t first = token + begin * kPerLine;
    if (p.multiplier != nullptr) {
#pragma unroll
      for (int i = 0; i < kBatch; ++i) v[i] *= begin + i < count ? value(p.multiplier, (first + i * kPerLine) * p.ldr + row) : 0.0F;
    }
    if (p.residual != nullptr) {
#pragma unroll
      for (int i = 0; i < kBatch; ++i) v[i] += begin + i < count ? value(p.residual, (first + i * kPerLine) * p.ldr + row) : 0.0F;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (begin + i >= count) break;
      const std::int64_t o = (first + i * kPerLine) * p.ldo + row;
      if (p.out_type == SpmmOut::f32) {
        static_cast<float*>(p.out)[o] = v[i];
      } else {
        static_cast<Half*>(p.out)[o] = Half(v[i]);
      }
    }
  }
}

// Writes a warp's sums, kRows / 16 row tiles of kNTiles fragments, kChunk n tiles at a time through its buffer: kChunk * kRows * 8 floats.
template <bool kIsBf16, int kRows, int kNTiles, int kChunk>
__device__ void write_output(const SpmmParams& p, int first_row, int first_n, int lane, const Fragments<kRows / 16 * kNTiles>& acc,
                             float* buffer) {
  constexpr int kPerLine = 32 / kRows;
#pragma unroll
  for (int chunk = 0; chunk < kNTiles; chunk += kChunk) {
    if (first_n + chunk * 8 >= p.n) break;
    __syncwarp();
#pragma unroll
    for (int t = 0; t < kChunk; ++t) {
#pragma unroll
      for (int i = 0; i < kRows / 4; ++i) {
        const int n = t * 8 + 2 * (lane % 4) + i % 2, row = lane / 4 + 8 * (i / 2);
        const int line = n / kPerLine, column = n % kPerLine * kRows + row;
        buffer[line * 32 + (column ^ line_swizzle<kRows>(line))] = acc[i / 4 * kNTiles + chunk + t][i % 4];
      }
    }
    __syncwarp();
    write_lines<kIsBf16, kRows, kChunk * 8>(p, first_row, first_n + chunk * 8, lane, buffer);
  }
}

// Walks the records of one warp through all segments of its CTA, ahead of their use.
template <int kRowBlocks, int kGroups>
class PrefetchCursor {
 public:
  // row: of the kRowBlocks row blocks of a super row.
  __device__ PrefetchCursor(const SpmmParams& p, int unit, int unit_end, int row, int group)
      : p_(p), unit_(unit), unit_end_(unit_end), row_(row), group_(group) {
    open();
    if (index_ == index_end_) return;
    begin_ = __ldg(p_.offsets + index_);
    end_ = __ldg(p_.offsets + index_ + 1);
  }

  // Pushes the current record, if one is left, and looks up the next.
  template <typename Ring>
  __device__ __forceinline__ void push_to(Ring&& ring) {
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
      const int row_block = super_row * kRowBlocks + row_;
      unit_ += length;
      if (row_block >= p_.row_blocks) continue;
      index_ = row_block * p_.records + k + length * group_ / kGroups;
      index_end_ = row_block * p_.records + k + length * (group_ + 1) / kGroups;
    }
  }

  const SpmmParams& p_;
  int unit_, unit_end_, row_, group_;
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
template <int kRowWarps, int kCount>
__device__ bool combine_partials(const SpmmParams& p, const SpmmSchedule& schedule, int super_row, int row_warp, int lane,
                                 Fragments<kCount>& acc) {
  const std::int64_t first_unit = std::int64_t{super_row} * p.records;
  const int first = schedule.owner(first_unit), last = schedule.owner(first_unit + p.records - 1);
  const int pass = blockIdx.y;
  const auto part = [&](int cta) {
    const int slot = schedule.begin(cta) > first_unit ? 0 : 1;
    const std::int64_t index = ((static_cast<std::int64_t>(pass) * schedule.ctas + cta) * 2 + slot) * kRowWarps + row_warp;
    return reinterpret_cast<float4*>(p.partials) + index * (kCount * 32) + lane;
  };
  float4* mine = part(blockIdx.x);
#pragma unroll
  for (int t = 0; t < kCount; ++t) __stcg(mine + t * 32, make_float4(acc[t][0], acc[t][1], acc[t][2], acc[t][3]));
  __syncwarp();  // with the release below, orders the stores of all lanes before the ticket
  std::uint32_t arrived = 0;
  std::uint32_t* ticket = p.tickets + (static_cast<std::int64_t>(pass) * schedule.super_rows + super_row) * kRowWarps + row_warp;
  if (lane == 0) arrived = ptx::atomic_add_release_acquire(ticket, 1);
  arrived = __shfl_sync(0xffffffff, arrived, 0);
  if (arrived != static_cast<std::uint32_t>(last - first)) return false;
#pragma unroll
  for (int t = 0; t < kCount; ++t) acc[t][0] = acc[t][1] = acc[t][2] = acc[t][3] = 0.0F;
#pragma unroll 2
  for (int cta = first; cta <= last; ++cta) {
    const float4* theirs = part(cta);
#pragma unroll
    for (int t = 0; t < kCount; ++t) add_to(acc[t], __ldcg(theirs + t * 32));
  }
  if (lane == 0) *ticket = 0;
  return true;
}

}  // namespace gossamer
