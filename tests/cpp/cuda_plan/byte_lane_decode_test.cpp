// The decoders of 8-bit bitmap records, lane by lane on the host: what each lane finds must be the dense weight at record_position, with
// both ways of selecting bytes. Mirrors kernels/spmm_byte_decoders.cuh step by step with host versions of prmt, dp4a, the funnel shift and
// the scan.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/byte_product.h"
#include "kernels/packed_x.h"
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
// shf.r.wrap: the shift is taken modulo 32; shf.r.clamp: at most 32.
std::uint32_t funnel_wrap(std::uint32_t low, std::uint32_t high, std::uint32_t shift) {
  return static_cast<std::uint32_t>((std::uint64_t{high} << 32 | low) >> (shift & 31U));
}
std::uint32_t funnel_clamp(std::uint32_t low, std::uint32_t high, std::uint32_t shift) {
  return static_cast<std::uint32_t>((std::uint64_t{high} << 32 | low) >> std::min(shift, 32U));
}

struct Selectors {
  std::uint32_t count, first_row_bits[4], selector[4][2];
};

Selectors table_selectors(std::uint32_t mask) {
  std::uint32_t table[16];
  for (std::uint32_t nibble = 0; nibble < 16; ++nibble) {
    std::uint32_t selector = 0, count = 0;
    for (int i = 0; i < 4; ++i) selector |= (nibble >> i & 1 ? count++ : 4U) << (4 * i);
    table[nibble] = selector;
  }
  const std::uint32_t pairs = mask - ((mask >> 1) & 0x55555555U);
  const std::uint32_t nibbles = (pairs & 0x33333333U) + ((pairs >> 2) & 0x33333333U);
  const std::uint32_t first_row = nibbles & 0x0f0f0f0fU, index[2] = {mask << 2 & 0x3c3c3c3cU, mask >> 2 & 0x3c3c3c3cU};
  Selectors s{};
  s.count = (nibbles + (nibbles >> 4)) & 0x0f0f0f0fU;
  for (int f = 0; f < 4; ++f) {
    s.first_row_bits[f] = dot_bytes(first_row, 8U << (8 * f), 0);
    for (int half = 0; half < 2; ++half) s.selector[f][half] = table[dot_bytes(index[half], 1U << (8 * f), 0) / 4];
  }
  return s;
}

Selectors arithmetic_selectors(std::uint32_t mask) {
  const std::uint32_t word = interleaved_mask(mask);
  std::uint32_t bits[4], sums[4];
  for (int f = 0; f < 4; ++f) {
    bits[f] = word >> f & 0x11111111U;
    sums[f] = bits[f] * 0x11111111U;
  }
  const std::uint32_t top = byte_permute(byte_permute(sums[0], sums[1], 0x73U), byte_permute(sums[2], sums[3], 0x73U), 0x5410U);
  Selectors s{};
  s.count = top >> 4 & 0x0f0f0f0fU;
  for (int f = 0; f < 4; ++f) {
    s.first_row_bits[f] = sums[f] >> 9 & 0x38U;
    for (int half = 0; half < 2; ++half) s.selector[f][half] = ((half == 0 ? bits[f] : bits[f] >> 16) * 0x110cU + 0x4444U) & 0xffffU;
  }
  return s;
}

// a[f][lane][half] of one tile, four columns each; values advances behind the tile's last value.
using Rows = std::array<std::array<std::array<std::uint32_t, 2>, 32>, 4>;
Rows decode_tile(const std::uint8_t* record, const std::uint32_t (&mask)[32], std::uint32_t& values,
                 Selectors (*selectors_of)(std::uint32_t)) {
  std::array<Selectors, 32> lanes;
  std::array<std::uint32_t, 32> before;
  std::uint32_t total = 0;  // of packed bytes, which may carry into one another
  for (std::size_t l = 0; l < 32; ++l) {
    lanes[l] = selectors_of(mask[l]);
    total += lanes[l].count;
    before[l] = total - lanes[l].count;
  }
  Rows a{};
  for (std::size_t f = 0; f < 4; ++f) {
    for (std::size_t l = 0; l < 32; ++l) {
      const std::uint32_t address = dot_bytes(before[l], 1U << (8 * f), values);
      std::uint32_t words[3];
      std::memcpy(words, record + (address & ~3U), 12);
      const std::uint32_t low = funnel_wrap(words[0], words[1], 8 * address), high = funnel_wrap(words[1], words[2], 8 * address);
      a[f][l][0] = byte_permute(low, 0, lanes[l].selector[f][0]);
      a[f][l][1] = byte_permute(funnel_clamp(low, high, lanes[l].first_row_bits[f]), 0, lanes[l].selector[f][1]);
    }
    std::uint32_t end = 0;
    for (std::size_t l = 0; l < 32; ++l) {
      const std::uint32_t others = total - lanes[l].count;
      const std::uint32_t mine = dot_bytes(others, 1U << (8 * f), dot_bytes(lanes[l].count, 1U << (8 * f), values));
      EXPECT_TRUE(l == 0 || mine == end) << "lanes disagree on where the next fragment begins";
      end = mine;
    }
    values = end;
  }
  return a;
}

// Every mask byte gives both decodings the same counts, and selectors that pick the same bytes.
TEST(ByteLaneDecode, BothDecodingsAgreeOnEveryMaskByte) {
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    for (int f = 0; f < 4; ++f) {
      const std::uint32_t mask = byte << (8 * f) | (0xa5U << (8 * ((f + 1) % 4)));
      const Selectors table = table_selectors(mask), arithmetic = arithmetic_selectors(mask);
      EXPECT_EQ(table.count >> (8 * f) & 0xffU, static_cast<std::uint32_t>(std::popcount(byte)));
      EXPECT_EQ(table.count, arithmetic.count);
      EXPECT_EQ(arithmetic.first_row_bits[f], table.first_row_bits[f]);
      EXPECT_EQ(table.first_row_bits[f], 8U * static_cast<std::uint32_t>(std::popcount(byte & 15U)));
      for (int half = 0; half < 2; ++half) {
        EXPECT_EQ(byte_permute(0x44332211U, 0, table.selector[f][half]), byte_permute(0x44332211U, 0, arithmetic.selector[f][half]))
            << "byte " << byte << " fragment " << f << " half " << half;
      }
    }
  }
}

TEST(ByteLaneDecode, EveryLaneFindsItsFragments) {
  HostAllocator allocator;
  ThreadPool pool(1);
  std::mt19937 random(11);
  for (const double density : {0.0, 0.1, 0.4, 0.5, 0.9, 1.0}) {
    OwnedScaledMatrix dense(allocator, DType::i8, 32, 64, 64);
    auto* w = static_cast<std::uint8_t*>(dense.view.values.raw());
    std::bernoulli_distribution keep(density);
    for (int i = 0; i < 32 * 64; ++i) w[i] = keep(random) ? static_cast<std::uint8_t>(1 + random() % 255) : 0;
    for (int r = 0; r < 32; ++r) dense.view.scales.data<float>()[r] = 1.0F;
    const OwnedTiledWeight packed = pack_tiles(sparse_from_scaled(dense.view, allocator).view, TileFormat::bitmap, allocator, pool);
    std::vector<std::uint8_t> record(static_cast<std::size_t>(packed.view.data.nbytes()) + 16, 0xff);  // what lies behind must not matter
    std::memcpy(record.data(), packed.view.data.raw(), static_cast<std::size_t>(packed.view.data.nbytes()));
    for (const auto selectors : {table_selectors, arithmetic_selectors}) {
      std::uint32_t values = 256;
      for (int tile = 0; tile < 2; ++tile) {
        std::uint32_t mask[32];
        std::memcpy(mask, record.data() + 128 * tile, 128);
        const Rows a = decode_tile(record.data(), mask, values, selectors);
        for (int f = 0; f < 4; ++f) {
          for (int lane = 0; lane < 32; ++lane) {
            for (int e = 0; e < 8; ++e) {  // elements 0, 1, 4, 5 are row g's, 2, 3, 6, 7 those of row g + 8
              const RecordPosition at = record_position(4 * tile + f, lane, e);
              const auto found = a[static_cast<std::size_t>(f)][static_cast<std::size_t>(lane)][static_cast<std::size_t>(e / 2 % 2)];
              ASSERT_EQ(found >> (8 * (2 * (e / 4) + e % 2)) & 0xffU, w[at.row * 64 + at.col])
                  << "density " << density << " tile " << tile << " fragment " << f << " lane " << lane << " element " << e;
            }
          }
        }
      }
      EXPECT_EQ(values, 256 + packed.view.nnz);
    }
  }
}

// As decode() widens them: both ways are exact.
TEST(ByteLaneDecode, BytesWidenToHalvesExactly) {
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const auto u = static_cast<std::uint16_t>(byte ^ 0x80U);
    const float widened = to_float(Float16{static_cast<std::uint16_t>(0x6400U | u)}) + to_float(Float16{0xe480U});
    EXPECT_EQ(widened, static_cast<float>(static_cast<std::int8_t>(byte)));
    const float e4m3 = to_float(Float8E4M3{static_cast<std::uint8_t>(byte)});
    if ((byte & 0x7fU) != 0x7fU) {
      EXPECT_EQ(to_float(to_float16(e4m3)), e4m3) << byte;
    }
  }
}

// Of x, a lane of mma reads 16 bytes at lane * 16: its pieces must hold, for token lane / 4, the columns of its weights in the same lane
// % 4.
TEST(PackedX, MmaLanesFindTheColumnsOfTheirWeights) {
  for (int n_tiles : {1, 2, 4}) {
    for (int tile = 0; tile < n_tiles; ++tile) {
      for (int lane = 0; lane < 32; ++lane) {
        for (int fragment = 0; fragment < 4; ++fragment) {
          for (int e = 0; e < 8; ++e) {
            const int column = record_position(fragment, lane, e).col, token = tile * 8 + lane / 4;
            const int i = 2 * (e / 4) + e % 2;  // among the four columns of the fragment
            EXPECT_EQ(packed_x_offset(PackedX::bytes, n_tiles, token, column), (tile * 32 + lane) * 16 + 4 * fragment + i);
            EXPECT_EQ(packed_x_offset(PackedX::fragments, n_tiles, token, column),
                      (tile * 2 + fragment / 2) * 512 + lane * 16 + 8 * (fragment % 2) + 2 * i);
          }
        }
      }
    }
  }
}

TEST(PackedX, EveryPlaceIsTakenOnce) {
  for (const PackedX layout : {PackedX::fragments, PackedX::core_matrices, PackedX::bytes, PackedX::byte_core_matrices}) {
    for (const int n_tiles : {1, 2, 4, 8}) {
      const int size = is_of_bytes(layout) ? 1 : 2;
      std::vector<int> taken(static_cast<std::size_t>(packed_x_record_bytes(layout, n_tiles) / size));
      for (int token = 0; token < 8 * n_tiles; ++token) {
        for (int column = 0; column < 64; ++column) {
          const int offset = packed_x_offset(layout, n_tiles, token, column);
          ASSERT_EQ(offset % size, 0);
          ++taken.at(static_cast<std::size_t>(offset / size));
        }
      }
      for (const int count : taken) EXPECT_EQ(count, 1);
    }
  }
}

// On core matrices (8 tokens x 16 bytes) fragment f's columns are those that mma's k = 0..15 means: 2 q + {0, 1} and 8 + 2 q + {0, 1}.
TEST(PackedX, CoreMatricesHoldAFragmentsColumnsInTheOrderOfK) {
  for (const int n_tiles : {1, 8}) {
    for (int lane = 0; lane < 4; ++lane) {
      for (int fragment = 0; fragment < 4; ++fragment) {
        for (int e = 0; e < 8; ++e) {
          const int k = 2 * lane + e % 2, half = e / 4, column = record_position(fragment, lane, e).col;
          for (int token = 0; token < 8 * n_tiles; ++token) {
            EXPECT_EQ(packed_x_offset(PackedX::core_matrices, n_tiles, token, column),
                      ((fragment * n_tiles + token / 8) * 2 + half) * 128 + (token % 8 * 8 + k) * 2);
          }
        }
      }
    }
  }
}

// Bytes on core matrices: of the two fragments of m16 x k32 that make a tile, registers 0 and 1 of lane % 4 = q hold k = 4 q .., registers
// 2 and 3 k = 16 + 4 q ..; they are the four columns of the record's even and odd fragments.
TEST(PackedX, CoreMatricesOfBytesHoldAFragmentsColumnsInTheOrderOfK) {
  for (const int n_tiles : {8, 16}) {
    for (int lane = 0; lane < 4; ++lane) {
      for (int fragment = 0; fragment < 4; ++fragment) {
        for (int e = 0; e < 8; ++e) {
          const int i = 2 * (e / 4) + e % 2, k = 16 * (fragment % 2) + 4 * lane + i, column = record_position(fragment, lane, e).col;
          for (int token = 0; token < 8 * n_tiles; ++token) {
            EXPECT_EQ(packed_x_offset(PackedX::byte_core_matrices, n_tiles, token, column),
                      ((fragment / 2 * n_tiles + token / 8) * 2 + k / 16) * 128 + token % 8 * 16 + k % 16);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace gossamer
