// Expands a weight of 8-bit tiles into a dense one of halves, [m, ldw] row-major, scales multiplied in, for a dense product over many
// tokens. As expand.cuh: one warp walks records along k, a lane's share of two fragments is 16 contiguous bytes of a row.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

#include "device/ptx.cuh"
#include "kernels/expand_bytes_params.h"
#include "kernels/record_ring.cuh"
#include "kernels/spmm_byte_decoders.cuh"

namespace gossamer {

template <class Decoder>
struct ExpandBytesLayout {  // byte offsets in dynamic shared memory
  static constexpr int kWarps = 8;
  static constexpr int kScratch = (kWarps * RecordRing::kBarrierBytes + 127) / 128 * 128;
  static constexpr int kRings = kScratch + kWarps * Decoder::kScratchBytes;
  static constexpr int total(int slot_bytes) { return kRings + kWarps * 2 * slot_bytes + Decoder::kOverread; }
};

// Eight f16 times a scale, rounded once.
template <class Half>
__device__ __forceinline__ uint4 scaled_halves(const std::uint32_t (&pairs)[4], float scale) {
  std::uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    __half from[2];
    std::memcpy(from, &pairs[i], 4);
    const Half to[2] = {Half(static_cast<float>(from[0]) * scale), Half(static_cast<float>(from[1]) * scale)};
    std::memcpy(&words[i], to, 4);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

template <class Decoder, class Half>
__global__ void __launch_bounds__(ExpandBytesLayout<Decoder>::kWarps * 32)
    expand_bytes_kernel(const __grid_constant__ ExpandBytesParams params) {
  using Layout = ExpandBytesLayout<Decoder>;
  const ExpandParams& p = params.base;
  extern __shared__ __align__(128) std::uint8_t shared[];
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const std::uint32_t base = ptx::shared_address(shared), scratch = base + Layout::kScratch + warp * Decoder::kScratchBytes;
  RecordRing ring(base + Layout::kRings + warp * 2 * p.slot_bytes, p.slot_bytes, base + warp * RecordRing::kBarrierBytes, lane);
  Decoder::prepare(scratch, lane);
  __syncwarp();

  // Warps of the grid take even shares of all records, contiguous, since neighbours along k share a row's lines.
  const std::int64_t records = std::int64_t{p.row_blocks} * p.records, workers = std::int64_t{gridDim.x} * Layout::kWarps;
  const std::int64_t worker = std::int64_t{blockIdx.x} * Layout::kWarps + warp;
  const int begin = static_cast<int>(records * worker / workers), end = static_cast<int>(records * (worker + 1) / workers);
  const auto push = [&](int record) {
    const std::uint32_t first = record < end ? __ldg(p.offsets + record) : 0, last = record < end ? __ldg(p.offsets + record + 1) : 0;
    ring.push(p.data + std::size_t{first} * 16, (last - first) * 16);
  };
  for (int s = 0; s < 2; ++s) {
    push(begin + s);
    ring.advance();
  }
  ring.start();
  for (int record = begin; record < end; ++record) {
    const int row = record / p.records * 32 + lane / 4, column = record % p.records * 64 + 8 * (lane % 4);
    std::uint32_t even[4];
    Decoder::decode(ring.front(), scratch, lane, [&](int tile, int f, const std::uint32_t (&a)[4]) {
      if (f % 2 == 0) {
#pragma unroll
        for (int i = 0; i < 4; ++i) even[i] = a[i];
        return;
      }
      const int c = column + f / 2 * 32;
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // rows 8 apart
        const int r = row + 16 * tile + 8 * half;
        if (r < p.m && c < p.ldw) {
          const std::uint32_t pairs[4] = {even[half], even[2 + half], a[half], a[2 + half]};
          *reinterpret_cast<uint4*>(static_cast<std::uint16_t*>(p.out) + r * p.ldw + c) =
              scaled_halves<Half>(pairs, __ldg(params.row_scales + r));
        }
      }
    });
    __syncwarp();  // every lane has read the record: its slot may be written again
    push(record + 2);
    ring.advance();
  }
}

}  // namespace gossamer
