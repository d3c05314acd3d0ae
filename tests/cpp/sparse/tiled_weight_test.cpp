// Tile formats: unpack(pack(w)) == w; records hold what FORMAT.md says; malformed records are named.
#include "sparse/tiled_weight.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

namespace gossamer {
namespace {

OwnedSparseWeight random_weight(std::int64_t rows, std::int64_t cols, double density, DType dtype, Allocator& allocator, unsigned seed) {
  std::mt19937 random(seed);
  OwnedTensor dense(allocator, dtype, {rows, cols});
  auto* bits = static_cast<std::uint16_t*>(dense.view.raw());
  std::bernoulli_distribution keep(density);
  for (std::int64_t i = 0; i < rows * cols; ++i) bits[i] = keep(random) ? static_cast<std::uint16_t>(1 + random() % 0x7000) : 0;
  return sparse_from_dense(dense.view, allocator);
}

template <typename T>
bool equal(const Tensor& a, const Tensor& b) {
  return a.nbytes() == b.nbytes() && (a.nbytes() == 0 || std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.nbytes())) == 0);
}

struct Case {
  std::int64_t rows, cols;
  double density;
};

class TileRoundTrip : public ::testing::TestWithParam<std::tuple<TileFormat, DType, Case>> {};

TEST_P(TileRoundTrip, UnpackOfPackIsIdentity) {
  const auto [format, dtype, c] = GetParam();
  HostAllocator allocator;
  ThreadPool pool(2);
  const OwnedSparseWeight weight = random_weight(c.rows, c.cols, c.density, dtype, allocator, 7);
  const OwnedTiledWeight packed = pack_tiles(weight.view, format, allocator, pool);
  validate_tiles(packed.view, "w");
  const OwnedSparseWeight back = unpack_tiles(packed.view, allocator);
  EXPECT_TRUE(equal<std::uint8_t>(weight.view.mask, back.view.mask));
  EXPECT_TRUE(equal<std::uint16_t>(weight.view.values, back.view.values));
  EXPECT_TRUE(equal<std::int64_t>(weight.view.row_offsets, back.view.row_offsets));
}

INSTANTIATE_TEST_SUITE_P(Sizes, TileRoundTrip,
                         ::testing::Combine(::testing::Values(TileFormat::bitmap, TileFormat::tiled_csl, TileFormat::two_four),
                                            ::testing::Values(DType::f16, DType::bf16),
                                            ::testing::Values(Case{1, 1, 1.0}, Case{16, 128, 0.5}, Case{15, 127, 0.4}, Case{17, 129, 0.4},
                                                              Case{64, 64, 0.0}, Case{64, 256, 1.0}, Case{31, 311, 0.1},
                                                              Case{97, 1009, 0.6}, Case{16, 8, 0.9})));

TEST(TiledWeight, ABitmapRecordIsMasksThenValuesInFragmentOrder) {
  HostAllocator allocator;
  ThreadPool pool(1);
  OwnedTensor dense(allocator, DType::f16, {32, 64});
  auto* bits = static_cast<std::uint16_t*>(dense.view.raw());
  std::memset(bits, 0, 32 * 64 * 2);
  // Fragment 5 (tile 1: rows 16.., f 1), lane 6 (row 1 or 9 of it, quad 2), elements 2 and 5.
  const RecordPosition a = record_position(5, 6, 2), b = record_position(5, 6, 5);
  EXPECT_EQ(a.row, 16 + 9);
  EXPECT_EQ(a.col, 16 + 4);
  EXPECT_EQ(b.row, 16 + 1);
  EXPECT_EQ(b.col, 16 + 4 + 2 + 1);
  bits[a.row * 64 + a.col] = 0x1111;
  bits[b.row * 64 + b.col] = 0x2222;
  const OwnedSparseWeight weight = sparse_from_dense(dense.view, allocator);
  const OwnedTiledWeight packed = pack_tiles(weight.view, TileFormat::bitmap, allocator, pool);
  ASSERT_EQ(packed.view.data.nbytes(), 256 + 16);
  const auto* record = packed.view.data.data<std::uint8_t>();
  std::uint32_t mask = 0;
  std::memcpy(&mask, record + 4 * (32 + 6), 4);
  EXPECT_EQ(mask, 1U << (8 + 2) | 1U << (8 + 5));
  std::uint16_t values[2];
  std::memcpy(values, record + 256, 4);
  EXPECT_EQ(values[0], 0x1111);
  EXPECT_EQ(values[1], 0x2222);
}

TEST(TiledWeight, EveryPositionOfARecordIsReachedOnce) {
  bool seen[32][64] = {};
  for (int f = 0; f < 8; ++f) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int e = 0; e < 8; ++e) {
        const RecordPosition at = record_position(f, lane, e);
        EXPECT_FALSE(seen[at.row][at.col]);
        seen[at.row][at.col] = true;
      }
    }
  }
}

// 32 consecutive words of a Tiled-CSL tile hit few banks twice: on random tiles at 80 % at most 2 deep on average.
TEST(TiledWeight, TiledCslWordsAreSpreadOverBanks) {
  HostAllocator allocator;
  ThreadPool pool(1);
  const OwnedSparseWeight weight = random_weight(160, 1280, 0.2, DType::f16, allocator, 3);
  const OwnedTiledWeight packed = pack_tiles(weight.view, TileFormat::tiled_csl, allocator, pool);
  double rounds = 0, depth = 0;
  for (std::int64_t i = 0; i < packed.view.num_records(); ++i) {
    const auto* record = packed.view.data.data<std::uint8_t>() + packed.view.offsets.data<std::int32_t>()[i] * kRecordUnit;
    std::uint32_t counts[2];
    std::memcpy(counts, record, 8);
    const std::uint8_t* words = record + 16;
    for (const std::uint32_t count : counts) {
      for (std::uint32_t begin = 0; begin < count; begin += 32) {
        int hits[32] = {}, worst = 0;
        for (std::uint32_t j = begin; j < std::min(begin + 32, count); ++j) {
          std::uint32_t word = 0;
          std::memcpy(&word, words + 4 * j, 4);
          worst = std::max(worst, ++hits[(word >> 17) % 32]);
        }
        rounds += 1;
        depth += worst;
      }
      words += 4 * count;
    }
  }
  EXPECT_LT(depth / rounds, 2.0);
}

TEST(TiledWeight, MalformedRecordsAreNamed) {
  HostAllocator allocator;
  ThreadPool pool(1);
  for (const TileFormat format : {TileFormat::bitmap, TileFormat::tiled_csl, TileFormat::two_four}) {
    const OwnedSparseWeight weight = random_weight(40, 300, 0.5, DType::f16, allocator, 5);
    OwnedTiledWeight packed = pack_tiles(weight.view, format, allocator, pool);
    auto* offsets = packed.view.offsets.data<std::int32_t>();
    auto* data = packed.view.data.data<std::uint8_t>();
    const auto expect_bad = [&](const char* what) { EXPECT_THROW(validate_tiles(packed.view, "layer.weight"), CheckpointError) << what; };
    offsets[0] = 1, expect_bad("first offset"), offsets[0] = 0;
    std::swap(offsets[2], offsets[3]), expect_bad("order"), std::swap(offsets[2], offsets[3]);
    offsets[2] += 1, expect_bad("record length"), offsets[2] -= 1;
    data[0] ^= 1, expect_bad("mask or count"), data[0] ^= 1;
    validate_tiles(packed.view, "layer.weight");
    try {
      data[0] ^= 2;
      validate_tiles(packed.view, "layer.weight");
      ADD_FAILURE() << "accepted";
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find("layer.weight"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("record 0"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace gossamer
