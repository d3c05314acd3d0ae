// The 2:4 decoder's arithmetic, lane by lane on the host, and what mma.sp makes of its operands: the products' matrix must be the dense
// weight. Mirrors kernels/two_four_decoder.cuh step by step; mma.sp's layouts as in the PTX ISA ("Matrix fragments for sparse
// mma.m16n8k32").
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
template <typename T>
T load(const std::vector<std::uint8_t>& bytes, std::size_t at) {
  T v;
  std::memcpy(&v, bytes.data() + at, sizeof v);
  return v;
}

using Registers = std::array<std::array<std::uint32_t, 4>, 32>;  // [lane][register] of one A operand
using Metadata = std::array<std::uint32_t, 32>;

struct Operand {
  int tile, fragment, selector;
  Registers a;
  Metadata metadata;
};

// The operands of all products of a record, in the kernel's order.
std::vector<Operand> decode(const std::vector<std::uint8_t>& record) {
  std::vector<Operand> operands;
  const auto rest = load<std::uint32_t>(record, 384);
  std::uint32_t values = 388 + 4 * rest;
  std::array<std::uint32_t, 32> slots, pairs, halves;
  for (std::size_t l = 0; l < 32; ++l) {
    slots[l] = load<std::uint32_t>(record, 256 + 4 * l);
    pairs[l] = slots[l] - ((slots[l] >> 1) & 0x55555555U);
    halves[l] = (pairs[l] & 0x33333333U) + ((pairs[l] >> 2) & 0x33333333U);
  }
  for (int tile = 0; tile < 2; ++tile) {
    std::uint32_t total = 0;
    std::array<std::array<std::uint32_t, 2>, 32> start;
    for (std::size_t l = 0; l < 32; ++l) {
      start[l] = {total, total + (pairs[l] >> (4 * tile) & 0x03030303U)};
      total += halves[l] >> (4 * tile) & 0x0f0f0f0fU;
    }
    for (int fragment = 0; fragment < 2; ++fragment) {
      Operand o{tile, fragment, fragment, {}, {}};
      for (std::size_t l = 0; l < 32; ++l) o.metadata[l] = load<std::uint32_t>(record, 128 * static_cast<std::size_t>(tile) + 4 * l);
      for (int half = 0; half < 2; ++half) {
        const std::uint32_t byte = 2U << (8 * (2 * fragment + half));
        for (std::size_t l = 0; l < 32; ++l) {
          for (int pair = 0; pair < 2; ++pair) {
            const std::uint32_t index = (slots[l] >> (4 * tile + 2 * pair) & 0x03030303U) * 0x11U + 0x40404040U;
            const std::uint32_t both = byte_permute(0x10221022U, 0x54102222U, index >> (16 * fragment) & 0xffffU);
            const std::uint32_t at = dot_bytes(start[l][static_cast<std::size_t>(pair)], byte, values);
            o.a[l][static_cast<std::size_t>(2 * half + pair)] =
                byte_permute(load<std::uint16_t>(record, at), load<std::uint16_t>(record, at + 2), half == 0 ? both & 0xffffU : both >> 16);
          }
        }
        values = dot_bytes(total, byte, values);
      }
      operands.push_back(o);
    }
  }
  std::vector<std::uint16_t> scratch(1024);
  for (std::size_t i = 0; i < rest; ++i) {
    const auto word = load<std::uint32_t>(record, 388 + 4 * i);
    scratch.at(word >> 16) = static_cast<std::uint16_t>(word & 0xffffU);
  }
  for (int tile = 0; tile < 2; ++tile) {
    for (int fragment = 0; fragment < 2; ++fragment) {
      Operand o{tile, fragment, 0, {}, {}};
      o.metadata.fill(0xEEEEEEEEU);
      for (std::size_t l = 0; l < 32; ++l) {
        std::memcpy(o.a[l].data(), scratch.data() + (static_cast<std::size_t>(2 * tile + fragment) * 32 + l) * 8, 16);
      }
      operands.push_back(o);
    }
  }
  return operands;
}

// The 16 x 32 matrix that mma.sp multiplies by, in halfwords added up (each element comes from one operand at most).
void add_matrix(const Operand& o, std::array<std::array<std::uint32_t, 32>, 16>& matrix) {
  for (std::size_t row = 0; row < 16; ++row) {
    for (std::size_t group = 0; group < 8; ++group) {
      // Lane 4g + q: registers 0, 1 hold rows g, g + 8 of group q; registers 2, 3 those of group 4 + q.
      const std::size_t lane = row % 8 * 4 + group % 4;
      const std::uint32_t value = o.a[lane][row / 8 + 2 * (group / 4)];
      const std::uint32_t word = o.metadata[row % 8 * 4 + 2 * static_cast<std::size_t>(o.selector) + group / 4];
      const std::uint32_t code = word >> (16 * (row / 8) + 4 * (group % 4)) & 0xfU;
      const std::size_t first = code & 3U, second = code >> 2;
      EXPECT_LT(first, second) << "metadata must ascend";
      matrix[row][4 * group + first] += value & 0xffffU;
      matrix[row][4 * group + second] += value >> 16;
    }
  }
}

// Column of the record that k meets: B's register i of lane 4n + q has k = 8i + 2q, + 1, and is word i of 16 bytes of x.
int column_of(int fragment, int k) { return 32 * fragment + 8 * (k / 2 % 4) + 2 * (k / 8) + k % 2; }

TEST(TwoFourDecode, TheProductsMatrixIsTheWeight) {
  HostAllocator allocator;
  ThreadPool pool(1);
  std::mt19937 random(12);
  for (const double density : {0.0, 0.02, 0.1, 0.2, 0.3, 0.5, 0.9, 1.0}) {
    OwnedTensor dense(allocator, DType::f16, {32, 64});
    auto* w = static_cast<std::uint16_t*>(dense.view.raw());
    std::bernoulli_distribution keep(density);
    for (int i = 0; i < 32 * 64; ++i) w[i] = keep(random) ? static_cast<std::uint16_t>(1 + random() % 0x7bff) : 0;
    const OwnedTiledWeight packed = pack_tiles(sparse_from_dense(dense.view, allocator).view, TileFormat::two_four, allocator, pool);
    std::vector<std::uint8_t> record(static_cast<std::size_t>(packed.view.data.nbytes()) + 128, 0xff);  // what lies behind must not matter
    std::memcpy(record.data(), packed.view.data.raw(), static_cast<std::size_t>(packed.view.data.nbytes()));
    std::array<std::array<std::array<std::uint32_t, 32>, 16>, 4> found{};
    for (const Operand& o : decode(record)) add_matrix(o, found[static_cast<std::size_t>(2 * o.tile + o.fragment)]);
    for (int tile = 0; tile < 2; ++tile) {
      for (int fragment = 0; fragment < 2; ++fragment) {
        for (int row = 0; row < 16; ++row) {
          for (int k = 0; k < 32; ++k) {
            const auto& matrix = found[static_cast<std::size_t>(2 * tile + fragment)];
            ASSERT_EQ(matrix[static_cast<std::size_t>(row)][static_cast<std::size_t>(k)],
                      w[(16 * tile + row) * 64 + column_of(fragment, k)])
                << "density " << density << " tile " << tile << " fragment " << fragment << " row " << row << " k " << k;
          }
        }
      }
    }
  }
}

TEST(TwoFourDecode, EveryElementBelongsToOneGroup) {
  std::array<std::array<int, 64>, 32> seen{};
  std::array<int, 1024> locations{};
  for (int i = 0; i < 512; ++i) {
    const TwoFourGroup group{i / 256, i / 128 % 2, i / 64 % 2, i / 2 % 32, i % 2};
    for (int j = 0; j < 4; ++j) ++seen[static_cast<std::size_t>(group.row())][static_cast<std::size_t>(group.column(j))];
    for (int j = 2; j < 4; ++j) ++locations[static_cast<std::size_t>(group.rest_location(j))];
    EXPECT_EQ(group.column(3), group.column(0) + 9);  // what packing reads its four mask bits by
  }
  for (const auto& row : seen) {
    for (const int times : row) EXPECT_EQ(times, 1);
  }
  for (const int times : locations) EXPECT_EQ(times, 1);
}

}  // namespace
}  // namespace gossamer
