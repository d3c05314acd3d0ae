// What wgmma multiplies, and the sums it leaves in a warp's registers: [n tile] is the C fragment of its 16 rows x 8 tokens.
//
//   begin_step      before the first product of each step of 64 columns
//   add             enqueues the product of one fragment
//   at              the sums of an n tile, once all products are complete
#pragma once

#include <cstdint>

#include "device/ptx_wgmma.cuh"
#include "kernels/packed_x.h"
#include "kernels/spmm_bytes_params.h"
#include "kernels/spmm_common.cuh"

namespace gossamer {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <bool kIsBf16, int kNTiles>
class HalfSums {
 public:
  __device__ __forceinline__ void begin_step() {}
  __device__ __forceinline__ void add(const std::uint32_t (&a)[4], std::uint64_t b) {
    ptx::wgmma_rs<ptx::WgmmaHalves<kIsBf16>, kNTiles>(sums_, a, b);
  }
  __device__ __forceinline__ float4 at(int t) const { return make_float4(sums_[t][0], sums_[t][1], sums_[t][2], sums_[t][3]); }

 private:
  Fragments<kNTiles> sums_ = {};
};

// wgmma keeps some 14 bits of a sum of e4m3 products, so a sum goes on in fp32 every 128 columns.
template <int kNTiles>
class E4m3Sums {
 public:
  __device__ __forceinline__ void begin_step() {
    if (!is_second_) {
      ptx::wgmma_wait<0>();
#pragma unroll
      for (int t = 0; t < kNTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          ptx::wgmma_settle(part_[t][i]);
          total_[t][i] += part_[t][i];
        }
      }
      keeps_ = 0;
    }
    is_second_ = !is_second_;
  }
  __device__ __forceinline__ void add(const std::uint32_t (&a)[4], std::uint64_t b) {
    ptx::wgmma_rs<ptx::WgmmaE4m3, kNTiles>(part_, a, b, keeps_);
    keeps_ = 1;
  }
  __device__ __forceinline__ float4 at(int t) {
    float sum[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      ptx::wgmma_settle(part_[t][i]);
      sum[i] = total_[t][i] + part_[t][i];
    }
    return make_float4(sum[0], sum[1], sum[2], sum[3]);
  }

 private:
  Fragments<kNTiles> total_ = {}, part_ = {};
  bool is_second_ = false;
  int keeps_ = 0;
};

// s32 sums, which cannot overflow up to k = 2^31 / 2^14.
template <int kNTiles>
class I8Sums {
 public:
  __device__ __forceinline__ void begin_step() {}
  __device__ __forceinline__ void add(const std::uint32_t (&a)[4], std::uint64_t b) { ptx::wgmma_rs_s8<kNTiles>(sums_, a, b); }
  __device__ __forceinline__ float4 at(int t) {
    float sum[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      ptx::wgmma_settle(sums_[t][i]);
      sum[i] = static_cast<float>(sums_[t][i]);
    }
    return make_float4(sum[0], sum[1], sum[2], sum[3]);
  }

 private:
  std::int32_t sums_[kNTiles][4] = {};
};

#endif

// The kinds of products, as a kernel takes them.
template <bool kIsBf16>
struct HalfProduct {
  using Params = SpmmParams;
  static constexpr PackedX kPackedX = PackedX::core_matrices;
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  template <int kNTiles>
  using Sums = HalfSums<kIsBf16, kNTiles>;
#endif
};
struct ByteWgmmaProduct {
  using Params = SpmmBytesParams;
  static constexpr PackedX kPackedX = PackedX::byte_core_matrices;
};
struct E4m3Product : ByteWgmmaProduct {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  template <int kNTiles>
  using Sums = E4m3Sums<kNTiles>;
#endif
};
struct I8Product : ByteWgmmaProduct {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  template <int kNTiles>
  using Sums = I8Sums<kNTiles>;
#endif
};

}  // namespace gossamer
