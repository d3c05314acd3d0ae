// The warp-specialised SpMM, its own source, on the emulator: packing of activations, copies and barriers, the walk over tiles, products
// from registers, sums across teams and blocks, epilogue.
#include "kernels/spmm_warp_specialized.cuh"

#include "emulated_product.h"

namespace gossamer {
namespace {

using testing::EmulatedProduct;
using testing::Problem;

template <class Tile, bool kIsBf16, int kNTiles, int kRowGroups, int kGroups>
struct Instance {
  using Layout = WarpSpecializedLayout<Tile, kNTiles, kRowGroups, kGroups>;
  static constexpr TileFormat kFormat = Tile::kScratchBytes == 0 ? TileFormat::bitmap : TileFormat::tiled_csl;

  static EmulatedProduct product(const Problem& p) {
    return {p, kFormat, kIsBf16, SpmmShape{SpmmKernel::warp_specialized, 4 * kRowGroups, kGroups}};
  }
  static EmulatedProduct::Launch launch(const SpmmConfig& config) {
    EXPECT_EQ(config.n_tiles, kNTiles);
    return {Layout::kThreads, Layout::total(static_cast<int>(config.slot_bytes), config.stages),
            [](const SpmmParams& p) { spmm_warp_specialized_kernel<Tile, kIsBf16, kNTiles, kRowGroups, kGroups>(p); }};
  }
};

template <class Tile, bool kIsBf16, int kNTiles, int kRowGroups, int kGroups>
void check(const Problem& p) {
  using It = Instance<Tile, kIsBf16, kNTiles, kRowGroups, kGroups>;
  const EmulatedProduct product = It::product(p);
  product.check(It::launch(product.config));
}

TEST(WarpSpecializedSpmm, TeamsSplitK) {
  check<BitmapTile, false, 4, 2, 2>({100, 2500, 25, 0.4, 1});  // every stage is filled more than twice
  check<TiledCslTile, true, 4, 2, 2>({100, 1300, 25, 0.2, 1});
  check<BitmapTile, true, 8, 2, 2>({130, 64, 40, 0.5, 1});  // one step: a team without any
}

TEST(WarpSpecializedSpmm, BlocksShareRows) {
  check<BitmapTile, false, 4, 4, 1>({300, 1100, 7, 0.5, 3});
  check<TiledCslTile, false, 4, 6, 1>({500, 600, 32, 0.3, 5});
  check<BitmapTile, true, 8, 2, 2>({257, 1031, 61, 0.5, 7});
}

TEST(WarpSpecializedSpmm, ManyTokensAndPasses) {
  check<BitmapTile, true, 16, 3, 1>({200, 450, 100, 0.3, 2});
  check<BitmapTile, false, 16, 4, 1>({95, 72, 120, 0.2, 2});
  check<TiledCslTile, false, 16, 2, 2>({95, 272, 128, 0.2, 2});
  check<BitmapTile, false, 8, 3, 1>({180, 300, 60, 0.5, 1});
  check<BitmapTile, false, 16, 3, 1>({150, 600, 150, 0.4, 1});  // two passes
}

TEST(WarpSpecializedSpmm, EmptyFullAndTinyWeights) {
  check<BitmapTile, false, 4, 2, 2>({1, 1, 1, 1.0, 3});
  check<BitmapTile, false, 8, 4, 1>({64, 256, 33, 0.0, 1});
  check<BitmapTile, false, 8, 4, 1>({280, 900, 33, 1.0, 2});
  check<TiledCslTile, false, 8, 4, 1>({280, 900, 33, 0.5, 2});  // tiles with more non-zeros than registers for their addresses
}

TEST(WarpSpecializedSpmm, TakesSumsThroughTheEpilogue) {
  using It = Instance<BitmapTile, false, 8, 2, 2>;
  const Problem p{70, 520, 33, 0.5, 3};
  EmulatedProduct product = It::product(p);
  const EmulatedProduct::Launch launch = It::launch(product.config);
  const std::vector<float> sums = product.sums(1, launch);
  const std::vector<std::uint16_t> bias = product.random_halves(p.m), residual = product.random_halves(p.n * p.m);
  std::vector<std::uint16_t> out(sums.size());
  SpmmParams params;
  params.out = out.data();
  params.bias = bias.data();
  params.residual = residual.data();
  params.activation = SpmmActivation::relu;
  product.run(params, 3, launch);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const float sum = sums[i] + testing::value_of(bias[i % static_cast<std::size_t>(p.m)], false);
    ASSERT_EQ(out[i], testing::bits_of(std::max(sum, 0.0F) + testing::value_of(residual[i], false), false)) << i;
  }
}

TEST(WarpSpecializedSpmm, DeadlocksWithTwoStages) {  // as its header argues
  using It = Instance<BitmapTile, false, 8, 4, 1>;
  EmulatedProduct product = It::product({64, 900, 33, 0.5, 1});
  product.config.stages = 2;
  const EmulatedProduct::Launch launch = It::launch(product.config);
  product.config.shared_bytes = launch.shared;
  EXPECT_THROW(product.sums(1, launch), std::runtime_error);
}

}  // namespace
}  // namespace gossamer
