// Packing on the device, run on the host, against pack_tiles: byte for byte.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "emulation.h"
// after it
#include "kernels/pack.cuh"
#include "sparse/tiled_weight.h"
#include "support/random.h"

namespace gossamer::cuda {
namespace {

using gossamer::testing::Random;

void check_packing(std::int64_t rows, std::int64_t cols, double density) {
  Random random(static_cast<unsigned>(rows * cols));
  HostAllocator host;
  ThreadPool pool(1);
  const OwnedTensor dense(host, DType::f16, {rows, cols});
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    static_cast<std::uint16_t*>(dense.view.raw())[i] = random.uniform() < density ? static_cast<std::uint16_t>(0x3C00 + i % 1000) : 0;
  }
  const OwnedSparseWeight weight = sparse_from_dense(dense.view, host);
  const OwnedTiledWeight expected = pack_tiles(weight.view, TileFormat::bitmap, host, pool);
  const TileSizes sizes = tile_sizes(weight.view, TileFormat::bitmap, pool);
  ASSERT_EQ(sizes.max_record_bytes, expected.view.max_record_bytes);
  ASSERT_EQ(std::memcmp(sizes.offsets.data(), expected.view.offsets.raw(), static_cast<std::size_t>(expected.view.offsets.nbytes())), 0);

  std::vector<std::uint8_t> data(static_cast<std::size_t>(expected.view.data.nbytes()), 0xAB);
  std::vector<std::int32_t> before(static_cast<std::size_t>(expected.view.num_records() * 32), -1);
  PackParams p;
  p.mask = weight.view.mask.data<const std::uint8_t>();
  p.values = static_cast<const std::uint16_t*>(weight.view.values.raw());
  p.row_offsets = weight.view.row_offsets.data<const std::int64_t>();
  p.before = before.data();
  p.offsets = sizes.offsets.data();
  p.data = data.data();
  p.rows = rows;
  p.mask_stride = weight.view.mask_stride();
  p.row_blocks = expected.view.row_blocks();
  p.records = expected.view.records_per_row_block();
  const auto blocks = [](std::int64_t warps) { return static_cast<unsigned>((warps + kPackWarps - 1) / kPackWarps); };
  emulation::launch({blocks(p.row_blocks), 1, 1}, kPackWarps * 32, [&] { pack_count_kernel(p); });
  emulation::launch({blocks(p.row_blocks * p.records), 1, 1}, kPackWarps * 32, [&] { pack_records_kernel(p); });
  ASSERT_EQ(std::memcmp(data.data(), expected.view.data.raw(), data.size()), 0) << rows << " x " << cols << ", density " << density;
}

TEST(PackKernels, MakeTheHostsBytes) {
  for (const double density : {0.0, 0.4, 1.0}) {
    check_packing(64, 128, density);
    check_packing(33, 200, density);  // edges in both directions, and rows of masks that are not 8 bytes apart
    check_packing(1, 1, density);
    check_packing(70, 515, density);
  }
}

}  // namespace
}  // namespace gossamer::cuda
