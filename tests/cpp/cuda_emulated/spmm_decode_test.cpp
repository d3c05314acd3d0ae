// The SpMM kernels that GPUs have run, and their variants, on the emulator: so it is tried on what is known to be right, and they are tried
// on orders of events that a GPU seldom has.
#include "kernels/spmm_decode.cuh"

#include "emulated_product.h"
#include "kernels/spmm_wgmma.cuh"

namespace gossamer {
namespace {

using testing::EmulatedProduct;
using testing::Problem;

template <class Decoder>
constexpr TileFormat kFormatOf = TileFormat::bitmap;
template <>
constexpr TileFormat kFormatOf<TiledCslDecoder> = TileFormat::tiled_csl;
template <>
constexpr TileFormat kFormatOf<TwoFourDecoder> = TileFormat::two_four;

template <class Decoder, bool kIsBf16, int kNTiles, int kRowWarps, int kGroups, bool kPackedX>
void check_mma(const Problem& p) {
  const EmulatedProduct product(p, kFormatOf<Decoder>, kIsBf16, SpmmShape{SpmmKernel::mma, kRowWarps, kGroups, kPackedX});
  using Layout = SpmmSharedLayout<Decoder, kNTiles, kRowWarps, kGroups>;
  ASSERT_EQ(product.config.n_tiles, kNTiles);
  ASSERT_EQ(product.config.packs_x, kPackedX);
  product.check({Layout::kWarps * 32, Layout::total(static_cast<int>(product.config.slot_bytes)),
                 [](const SpmmParams& params) { spmm_decode_kernel<Decoder, kIsBf16, kNTiles, kRowWarps, kGroups, kPackedX>(params); }});
}

TEST(DecodeSpmm, Bitmap) {
  check_mma<BitmapDecoder, false, 1, 1, 16, false>({100, 1000, 3, 0.5, 3});
  check_mma<BitmapDecoder, true, 2, 4, 4, true>({300, 519, 13, 0.4, 2});
  check_mma<BitmapDecoder, false, 4, 4, 2, true>({200, 300, 50, 0.4, 1});  // two passes
}

TEST(DecodeSpmm, TiledCsl) {
  check_mma<TiledCslDecoder, false, 1, 4, 4, false>({300, 520, 8, 0.2, 2});
  check_mma<TiledCslDecoder, true, 2, 1, 8, false>({70, 1000, 9, 0.5, 3});
}

TEST(DecodeSpmm, TwoFour) {
  check_mma<TwoFourDecoder, false, 1, 1, 16, false>({100, 1000, 3, 0.2, 3});
  check_mma<TwoFourDecoder, true, 2, 4, 4, true>({300, 519, 13, 0.4, 2});
  check_mma<TwoFourDecoder, false, 1, 1, 8, false>({90, 520, 8, 1.0, 2});
}

template <class Decoder, bool kIsBf16, int kNTiles, int kRowGroups, int kGroups>
void check_wgmma(const Problem& p) {
  const EmulatedProduct product(p, kFormatOf<Decoder>, kIsBf16, SpmmShape{SpmmKernel::wgmma, 4 * kRowGroups, kGroups});
  using Layout = SpmmWgmmaLayout<Decoder, kNTiles, kRowGroups, kGroups>;
  ASSERT_EQ(product.config.n_tiles, kNTiles);
  product.check({Layout::kWarps * 32, Layout::total(static_cast<int>(product.config.slot_bytes)),
                 [](const SpmmParams& params) { spmm_wgmma_kernel<Decoder, kIsBf16, kNTiles, kRowGroups, kGroups>(params); }});
}

TEST(WgmmaSpmm, BitmapAndTiledCsl) {
  check_wgmma<BitmapDecoder, false, 8, 2, 2>({257, 1031, 61, 0.5, 3});
  check_wgmma<BitmapDecoder, true, 16, 4, 1>({300, 700, 120, 0.5, 2});
  check_wgmma<TiledCslDecoder, false, 8, 4, 1>({300, 700, 40, 0.2, 2});
}

}  // namespace
}  // namespace gossamer
