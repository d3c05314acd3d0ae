// Bitmap tiles of 8-bit values: unpack(pack(w)) == w; records hold what FORMAT.md says; malformed records are named.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>

#include "sparse/tiled_weight.h"

namespace gossamer {
namespace {

// Bytes and scales of an 8-bit weight; kept zeros too, since the mask is data.
OwnedSparseWeight random_bytes(std::int64_t rows, std::int64_t cols, double density, DType dtype, Allocator& allocator, unsigned seed) {
  std::mt19937 random(seed);
  OwnedScaledMatrix dense(allocator, dtype, rows, cols, cols);
  auto* bytes = static_cast<std::uint8_t*>(dense.view.values.raw());
  std::bernoulli_distribution keep(density);
  for (std::int64_t i = 0; i < rows * cols; ++i) bytes[i] = keep(random) ? static_cast<std::uint8_t>(1 + random() % 126) : 0;
  for (std::int64_t r = 0; r < rows; ++r) dense.view.scales.data<float>()[r] = 0.5F + static_cast<float>(random() % 1000);
  OwnedSparseWeight weight = sparse_from_scaled(dense.view, allocator);
  for (std::int64_t i = 0; i < weight.view.nnz(); i += 5) static_cast<std::uint8_t*>(weight.view.values.raw())[i] = 0;
  return weight;
}

bool equal(const Tensor& a, const Tensor& b) {
  return a.nbytes() == b.nbytes() && (a.nbytes() == 0 || std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.nbytes())) == 0);
}

struct Case {
  std::int64_t rows, cols;
  double density;
};

class ByteTileRoundTrip : public ::testing::TestWithParam<std::tuple<DType, Case>> {};

TEST_P(ByteTileRoundTrip, UnpackOfPackIsIdentity) {
  const auto [dtype, c] = GetParam();
  HostAllocator allocator;
  ThreadPool pool(2);
  const OwnedSparseWeight weight = random_bytes(c.rows, c.cols, c.density, dtype, allocator, 7);
  const OwnedTiledWeight packed = pack_tiles(weight.view, TileFormat::bitmap, allocator, pool);
  validate_tiles(packed.view, "w");
  const OwnedSparseWeight back = unpack_tiles(packed.view, allocator);
  EXPECT_EQ(back.view.dtype(), dtype);
  EXPECT_EQ(back.view.group, c.cols);
  EXPECT_TRUE(equal(weight.view.mask, back.view.mask));
  EXPECT_TRUE(equal(weight.view.values, back.view.values));
  EXPECT_TRUE(equal(weight.view.row_offsets, back.view.row_offsets));
  EXPECT_TRUE(equal(weight.view.scales, back.view.scales));
}

INSTANTIATE_TEST_SUITE_P(Sizes, ByteTileRoundTrip,
                         ::testing::Combine(::testing::Values(DType::i8, DType::e4m3),
                                            ::testing::Values(Case{1, 1, 1.0}, Case{15, 127, 0.4}, Case{33, 65, 0.4}, Case{64, 64, 0.0},
                                                              Case{64, 256, 1.0}, Case{97, 1009, 0.6})));

TEST(ByteTiles, ABytesRecordIsMasksThenALanesValuesTogether) {
  HostAllocator allocator;
  ThreadPool pool(1);
  OwnedScaledMatrix dense(allocator, DType::i8, 32, 64, 64);
  auto* bytes = static_cast<std::uint8_t*>(dense.view.values.raw());
  std::memset(bytes, 0, 32 * 64);
  for (int r = 0; r < 32; ++r) dense.view.scales.data<float>()[r] = 1.0F;
  // Tile 1, fragment 1, lane 6 (row 1 or 9 of it, quad 2): columns 20..23.
  bytes[(16 + 1) * 64 + 20] = 0x11;
  bytes[(16 + 1) * 64 + 23] = 0x22;
  bytes[(16 + 9) * 64 + 21] = 0x33;
  bytes[(16 + 1) * 64 + 16] = 0x44;  // the same tile's fragment 0, lane 6
  const OwnedTiledWeight packed = pack_tiles(sparse_from_scaled(dense.view, allocator).view, TileFormat::bitmap, allocator, pool);
  ASSERT_EQ(packed.view.data.nbytes(), 256 + 16);
  const auto* record = packed.view.data.data<std::uint8_t>();
  std::uint32_t mask = 0;
  std::memcpy(&mask, record + 4 * (32 + 6), 4);
  EXPECT_EQ(mask, 1U << 0 | 1U << 8 | 1U << 11 | 1U << (8 + 4 + 1));
  const std::uint8_t expected[4] = {0x44, 0x11, 0x22, 0x33};
  EXPECT_EQ(std::memcmp(record + 256, expected, 4), 0);
}

TEST(ByteTiles, EightBitValuesNeedBitmapTilesAndOneScaleARow) {
  HostAllocator allocator;
  ThreadPool pool(1);
  const OwnedSparseWeight weight = random_bytes(32, 128, 0.5, DType::i8, allocator, 1);
  EXPECT_THROW(pack_tiles(weight.view, TileFormat::tiled_csl, allocator, pool), InvalidArgument);
  SparseWeight grouped = weight.view;
  grouped.group = 64;
  EXPECT_THROW(pack_tiles(grouped, TileFormat::bitmap, allocator, pool), InvalidArgument);
}

TEST(ByteTiles, AFullFragmentHas256Values) {
  HostAllocator allocator;
  ThreadPool pool(1);
  const OwnedSparseWeight weight = random_bytes(32, 64, 1.0, DType::e4m3, allocator, 2);
  const OwnedTiledWeight packed = pack_tiles(weight.view, TileFormat::bitmap, allocator, pool);
  EXPECT_EQ(packed.view.data.nbytes(), 256 + 32 * 64);
  EXPECT_EQ(packed.view.max_record_bytes, 256 + 32 * 64);
  EXPECT_EQ(packed.view.nbytes(), 256 + 32 * 64 + 2 * 4 + 32 * 4);
}

TEST(ByteTiles, MalformedRecordsAreNamed) {
  HostAllocator allocator;
  ThreadPool pool(1);
  const OwnedSparseWeight weight = random_bytes(40, 300, 0.5, DType::i8, allocator, 5);
  OwnedTiledWeight packed = pack_tiles(weight.view, TileFormat::bitmap, allocator, pool);
  auto* offsets = packed.view.offsets.data<std::int32_t>();
  auto* data = packed.view.data.data<std::uint8_t>();
  const auto expect_bad = [&](const char* what) { EXPECT_THROW(validate_tiles(packed.view, "layer.weight"), CheckpointError) << what; };
  offsets[0] = 1, expect_bad("first offset"), offsets[0] = 0;
  std::swap(offsets[2], offsets[3]), expect_bad("order"), std::swap(offsets[2], offsets[3]);
  offsets[2] += 1, expect_bad("record length"), offsets[2] -= 1;
  data[0] ^= 1, expect_bad("mask"), data[0] ^= 1;
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

}  // namespace
}  // namespace gossamer
