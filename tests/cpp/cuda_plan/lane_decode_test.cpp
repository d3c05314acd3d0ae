// The bitmap decoder's arithmetic, lane by lane on the host: what each lane finds for its mma A fragment must be the dense weight at
// record_position. Mirrors kernels/spmm_decoders.cuh step by step with host versions of prmt, dp4a and the warp scan.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <random>
#include <vector>

#include "sparse/tiled_weight.h"

namespace gossamer {
namespace {

std::uint32_t byte_permute(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
  const std::uint64_t bytes = std::uint64_t{b} << 32 | a;
  std::uint32_t d = 0;
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t nibble = selector >> (4 * i) & 0xfU;
    EXPECT_LT(nibble, 8U) << "sign replication is not meant";
    d |= static_cast<std::uint32_t>(bytes >> (8 * nibble) & 0xffU) << (8 * i);
  }
  return d;
}
std::uint32_t dot_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  for (int i = 0; i < 4; ++i) c += (a >> (8 * i) & 0xffU) * (b >> (8 * i) & 0xffU);
  return c;
}

struct LaneState {
  std::uint32_t start[2][2], selector[2][2][2];
};

// a[f][lane][register] of one tile; values advances behind the tile's last value.
using Fragments = std::array<std::array<std::array<std::uint32_t, 4>, 32>, 4>;
Fragments decode_tile(const std::uint8_t* record, const std::uint32_t (&mask)[32], std::uint32_t& values) {
  std::array<LaneState, 32> lanes;
  std::uint32_t sum[2] = {0, 0};
  for (std::size_t l = 0; l < 32; ++l) {
    const std::uint32_t m = mask[l], pairs = m - ((m >> 1) & 0x55555555U), nibbles = (pairs & 0x33333333U) + ((pairs >> 2) & 0x33333333U);
    const std::uint32_t count[2] = {nibbles & 0x0f0f0f0fU, (nibbles >> 4) & 0x0f0f0f0fU};
    for (int half = 0; half < 2; ++half) {
      lanes[l].start[half][0] = sum[half];
      lanes[l].start[half][1] = sum[half] + (pairs >> (4 * half) & 0x03030303U);
      sum[half] += count[half];
      for (int pair = 0; pair < 2; ++pair) {
        const std::uint32_t index = ((m >> (4 * half + 2 * pair)) & 0x03030303U) * 0x11U + 0x40404040U;
        lanes[l].selector[half][pair][0] = byte_permute(0x10221022U, 0x54102222U, index & 0xffffU);
        lanes[l].selector[half][pair][1] = byte_permute(0x10221022U, 0x54102222U, index >> 16);
      }
    }
  }
  Fragments a{};
  for (std::size_t f = 0; f < 4; ++f) {
    for (std::size_t half = 0; half < 2; ++half) {
      for (std::size_t l = 0; l < 32; ++l) {
        for (std::size_t pair = 0; pair < 2; ++pair) {
          std::uint16_t v[2];
          std::memcpy(v, record + dot_bytes(lanes[l].start[half][pair], 2U << (8 * f), values), 4);
          a[f][l][2 * half + pair] = byte_permute(v[0], v[1], lanes[l].selector[half][pair][f / 2] >> (16 * (f % 2)) & 0xffffU);
        }
      }
      values = dot_bytes(sum[half], 2U << (8 * f), values);
    }
  }
  return a;
}

TEST(LaneDecode, EveryLaneFindsItsFragments) {
  HostAllocator allocator;
  ThreadPool pool(1);
  std::mt19937 random(11);
  for (const double density : {0.0, 0.1, 0.4, 0.5, 0.9, 1.0}) {
    OwnedTensor dense(allocator, DType::f16, {32, 64});
    auto* w = static_cast<std::uint16_t*>(dense.view.raw());
    std::bernoulli_distribution keep(density);
    for (int i = 0; i < 32 * 64; ++i) w[i] = keep(random) ? static_cast<std::uint16_t>(1 + random() % 0x7bff) : 0;
    const OwnedTiledWeight packed = pack_tiles(sparse_from_dense(dense.view, allocator).view, TileFormat::bitmap, allocator, pool);
    std::vector<std::uint8_t> record(static_cast<std::size_t>(packed.view.data.nbytes()) + 4, 0xff);  // what lies behind must not matter
    std::memcpy(record.data(), packed.view.data.raw(), static_cast<std::size_t>(packed.view.data.nbytes()));
    std::uint32_t values = 256;
    for (int tile = 0; tile < 2; ++tile) {
      std::uint32_t mask[32];
      std::memcpy(mask, record.data() + 128 * tile, 128);
      const Fragments a = decode_tile(record.data(), mask, values);
      for (int f = 0; f < 4; ++f) {
        for (int lane = 0; lane < 32; ++lane) {
          for (int e = 0; e < 8; ++e) {
            const RecordPosition at = record_position(4 * tile + f, lane, e);
            const std::uint32_t found =
                a[static_cast<std::size_t>(f)][static_cast<std::size_t>(lane)][static_cast<std::size_t>(e / 2)] >> (16 * (e % 2)) & 0xffffU;
            ASSERT_EQ(found, w[at.row * 64 + at.col])
                << "density " << density << " tile " << tile << " fragment " << f << " lane " << lane << " element " << e;
          }
        }
      }
    }
    EXPECT_EQ(values, 256 + 2 * packed.view.nnz);
  }
}

}  // namespace
}  // namespace gossamer
