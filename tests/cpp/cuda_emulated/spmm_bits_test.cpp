// Bits of the SpMM for few tokens, its own source, on the emulator: where many warps share k, a row of x alone like in any batch, the
// epilogue. Two programs are built of this file: with bulk copies, and with cp.async as before sm_90.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "emulator.h"
#include "kernels/pack_x.cuh"
#include "kernels/spmm_decode.cuh"
#include "plan/spmm_plan.h"
#include "sparse/tiled_weight.h"

namespace gossamer {
namespace {

template <class Decoder>
constexpr TileFormat kFormat = TileFormat::bitmap;
template <>
constexpr TileFormat kFormat<TiledCslDecoder> = TileFormat::tiled_csl;
template <>
constexpr TileFormat kFormat<TwoFourDecoder> = TileFormat::two_four;

struct Weight {
  Weight(TileFormat format, bool is_bf16, std::int64_t m, std::int64_t k, double density)
      : bf16(is_bf16), random(static_cast<unsigned>(31 * m + k)), dense(allocator, bf16 ? DType::bf16 : DType::f16, {m, k}) {
    std::uniform_real_distribution<double> chance(0, 1);
    auto* w = static_cast<std::uint16_t*>(dense.view.raw());
    for (std::int64_t r = 0; r < m; ++r) {  // skewed: some rows full, some empty, and a dense corner
      const double own = density < 0 ? (r % 7 == 0 ? 1.0 : r % 5 == 0 ? 0.0 : -density) : density;
      for (std::int64_t c = 0; c < k; ++c) w[r * k + c] = chance(random) < (density < 0 && r < 40 && c < 100 ? 1.0 : own) ? half() : 0;
    }
    ThreadPool pool(1);
    packed = pack_tiles(sparse_from_dense(dense.view, allocator).view, format, allocator, pool);
  }
  std::uint16_t half() {
    const float v = std::uniform_real_distribution<float>(-1, 1)(random);
    return bf16 ? to_bfloat16(v).bits : to_float16(v).bits;
  }
  float value(std::uint16_t bits) const { return bf16 ? to_float(BFloat16{bits}) : to_float(Float16{bits}); }
  std::vector<std::uint16_t> halves(std::int64_t count) {
    std::vector<std::uint16_t> v(static_cast<std::size_t>(count));
    for (auto& h : v) h = half();
    return v;
  }

  bool bf16;
  HostAllocator allocator;
  std::mt19937 random;
  OwnedTensor dense;
  OwnedTiledWeight packed;
};

template <class Decoder, bool kIsBf16, int kNTiles, int kRowWarps, int kGroups, bool kPackedX>
void launch(const SpmmParams& params, const SpmmConfig& config, std::uint64_t seed) {
  using Layout = SpmmSharedLayout<Decoder, kNTiles, kRowWarps, kGroups>;
  ASSERT_EQ(Layout::total(static_cast<int>(config.slot_bytes)), config.shared_bytes) << config.to_string();
  if (kPackedX) {
    emulator::run({static_cast<unsigned>((config.packed_x_bytes / 16 + 255) / 256), 1, 256}, 0, seed,
                  [&] { pack_x_kernel<false>(params, kNTiles, config.passes); });
  }
  emulator::run({static_cast<unsigned>(config.ctas), static_cast<unsigned>(config.passes), Layout::kWarps * 32},
                static_cast<std::uint32_t>(config.shared_bytes), seed,
                [&] { spmm_decode_kernel<Decoder, kIsBf16, kNTiles, kRowWarps, kGroups, kPackedX>(params); });
}

// x [n, k] through the weight, on `sms` multiprocessors. shape: none = the batch-invariant plan, which is 4 x 4 warps for these sizes.
template <class Decoder, bool kIsBf16>
class Product {
 public:
  Product(Weight& weight, const std::vector<std::uint16_t>& x, std::int64_t n, int sms) : weight_(weight), x_(x), n_(n) {
    limits_.num_sms = sms;
  }

  template <int kNTiles, int kRowWarps, int kGroups, bool kPackedX>
  std::vector<float> sums(std::uint64_t seed, bool batch_invariant = false) {
    std::vector<float> out(static_cast<std::size_t>(n_ * weight_.packed.view.rows), std::numeric_limits<float>::quiet_NaN());
    SpmmParams params;
    params.out = out.data();
    params.out_type = SpmmOut::f32;
    run<kNTiles, kRowWarps, kGroups, kPackedX>(params, seed, batch_invariant);
    return out;
  }

  template <int kNTiles, int kRowWarps, int kGroups, bool kPackedX>
  void run(SpmmParams params, std::uint64_t seed, bool batch_invariant = false) {
    const TiledWeight& w = weight_.packed.view;
    SpmmProblem problem{w.format, w.rows, w.cols, n_, w.max_record_bytes, w.cols % 8 == 0, {}, batch_invariant};
    if (!batch_invariant) problem.shape = SpmmShape{SpmmKernel::mma, kRowWarps, kGroups, kPackedX};
    const SpmmConfig config = plan_spmm(problem, limits_);
    ASSERT_EQ(config.n_tiles, kNTiles);
    ASSERT_EQ(config.row_warps * 100 + config.groups, kRowWarps * 100 + kGroups);
    std::vector<float> partials(static_cast<std::size_t>(config.partial_floats), std::numeric_limits<float>::quiet_NaN());
    std::vector<std::uint32_t> tickets(static_cast<std::size_t>(config.tickets));
    std::vector<uint4> packed_x(static_cast<std::size_t>(config.packed_x_bytes / 16), uint4{~0U, ~0U, ~0U, ~0U});
    params.data = w.data.data<std::uint8_t>();
    params.offsets = reinterpret_cast<const std::uint32_t*>(w.offsets.data<std::int32_t>());
    params.x = x_.data();
    params.partials = partials.data();
    params.tickets = tickets.data();
    params.packed_x = reinterpret_cast<std::uint8_t*>(packed_x.data());
    params.ldx = w.cols;
    params.ldo = params.ldr = w.rows;
    params.m = static_cast<std::int32_t>(w.rows);
    params.k = static_cast<std::int32_t>(w.cols);
    params.n = static_cast<std::int32_t>(n_);
    params.row_blocks = static_cast<std::int32_t>(w.row_blocks());
    params.records = static_cast<std::int32_t>(w.records_per_row_block());
    params.slot_bytes = static_cast<std::uint32_t>(config.slot_bytes);
    params.x_is_aligned = problem.x_is_aligned;
    launch<Decoder, kIsBf16, kNTiles, kRowWarps, kGroups, kPackedX>(params, config, seed);
    for (const std::uint32_t t : tickets) ASSERT_EQ(t, 0U);
  }

  // fp32 sums of k products: k eps |w||x|, as the GPU test has it.
  void expect_products(const std::vector<float>& out) const {
    const TiledWeight& view = weight_.packed.view;
    const auto* w = static_cast<const std::uint16_t*>(weight_.dense.view.raw());
    for (std::int64_t n = 0; n < n_; ++n) {
      for (std::int64_t r = 0; r < view.rows; ++r) {
        double sum = 0, norm = 0;
        for (std::int64_t c = 0; c < view.cols; ++c) {
          const double product =
              static_cast<double>(weight_.value(w[r * view.cols + c])) * weight_.value(x_[static_cast<std::size_t>(n * view.cols + c)]);
          sum += product;
          norm += std::abs(product);
        }
        const double bound = 4 * std::ldexp(1.0, -24) * (std::sqrt(static_cast<double>(view.cols)) + 8) * norm + 1e-30;
        ASSERT_LE(std::abs(out[static_cast<std::size_t>(n * view.rows + r)] - sum), bound) << "n " << n << ", row " << r;
      }
    }
  }

 private:
  Weight& weight_;
  const std::vector<std::uint16_t>& x_;
  std::int64_t n_;
  DeviceLimits limits_;
};

struct Problem {
  std::int64_t m, k, n;
  double density;  // < 0: of the rows that are neither full nor empty
  int sms;         // so how k is split
};

template <class Decoder, bool kIsBf16, int kNTiles, int kRowWarps, int kGroups, bool kPackedX>
void check(const Problem& p) {
  Weight weight(kFormat<Decoder>, kIsBf16, p.m, p.k, p.density);
  const std::vector<std::uint16_t> x = weight.halves(p.n * p.k);
  Product<Decoder, kIsBf16> product(weight, x, p.n, p.sms);
  const std::vector<float> out = product.template sums<kNTiles, kRowWarps, kGroups, kPackedX>(1);
  product.expect_products(out);
  const std::vector<float> again = product.template sums<kNTiles, kRowWarps, kGroups, kPackedX>(2);
  EXPECT_EQ(std::memcmp(out.data(), again.data(), out.size() * sizeof(float)), 0);
}

TEST(DecodeSpmmBits, SkewedWeights) {
  check<BitmapDecoder, true, 2, 4, 4, true>({129, 331, 13, -0.4, 3});
  check<TiledCslDecoder, true, 2, 4, 2, true>({129, 300, 13, -0.2, 3});
  check<TwoFourDecoder, true, 2, 4, 2, true>({129, 331, 13, -0.15, 3});
}

TEST(DecodeSpmmBits, TwoFourOfEveryDensity) {
  check<TwoFourDecoder, false, 1, 4, 4, false>({270, 456, 7, 0.2, 2});
  check<TwoFourDecoder, false, 4, 4, 2, true>({100, 200, 40, 0.3, 1});  // more in the rest than lanes
  check<TwoFourDecoder, false, 1, 4, 2, false>({64, 128, 8, 1.0, 1});
  check<TwoFourDecoder, false, 1, 4, 4, false>({64, 128, 8, 0.0, 1});
  check<TwoFourDecoder, false, 1, 4, 4, false>({1, 8, 1, 1.0, 3});
}

TEST(DecodeSpmmBits, ManyWarpsAlongK) {
  check<BitmapDecoder, false, 2, 1, 16, false>({33, 1400, 11, 0.5, 2});
  check<BitmapDecoder, true, 4, 1, 8, false>({100, 712, 27, -0.5, 3});
  check<BitmapDecoder, false, 1, 1, 32, false>({50, 2112, 1, 0.4, 3});
  check<TwoFourDecoder, true, 2, 1, 32, false>({70, 2112, 9, 0.2, 2});
}

// Several blocks share rows: kGroups of 4 take the way of one warp for a row block, 16 that of one for a fragment.
template <int kRowWarps, int kGroups, bool kPackedX>
void check_epilogue() {
  Weight weight(TileFormat::bitmap, false, 70, 520, 0.5);
  const std::int64_t n = 9, m = 70;
  const std::vector<std::uint16_t> x = weight.halves(n * 520), bias = weight.halves(m), residual = weight.halves(n * m),
                                   multiplier = weight.halves(n * m);
  Product<BitmapDecoder, false> product(weight, x, n, 3);
  const std::vector<float> sums = product.sums<2, kRowWarps, kGroups, kPackedX>(1);
  product.expect_products(sums);
  std::vector<std::uint16_t> out(sums.size());
  SpmmParams params;
  params.out = out.data();
  params.bias = bias.data();
  params.multiplier = multiplier.data();
  params.residual = residual.data();
  params.activation = SpmmActivation::relu;
  product.run<2, kRowWarps, kGroups, kPackedX>(params, 3);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const float activated = std::max(sums[i] + weight.value(bias[i % static_cast<std::size_t>(m)]), 0.0F);
    ASSERT_EQ(out[i], to_float16(activated * weight.value(multiplier[i]) + weight.value(residual[i])).bits) << i;
  }
}

TEST(DecodeSpmmBits, TakesSumsThroughTheEpilogue) {
  check_epilogue<4, 4, true>();
  check_epilogue<1, 16, false>();
}

// A row of x gives the same bits alone, in any batch, and where it is not aligned.
template <class Decoder>
void check_batch_invariance(std::int64_t k, double density) {
  constexpr std::int64_t kMost = 40, kRows = 150;
  Weight weight(kFormat<Decoder>, false, kRows, k, density);
  const std::vector<std::uint16_t> x = weight.halves(kMost * k);
  const std::vector<float> all = Product<Decoder, false>(weight, x, kMost, 3).template sums<4, 4, 4, true>(1, true);
  const auto expect_same = [&](std::int64_t first, std::int64_t n, const auto& sums) {
    const std::vector<std::uint16_t> rows(x.begin() + first * k, x.begin() + (first + n) * k);
    Product<Decoder, false> product(weight, rows, n, 3);
    const std::vector<float> some = sums(product);
    EXPECT_EQ(std::memcmp(some.data(), all.data() + first * kRows, some.size() * sizeof(float)), 0) << "n " << n;
  };
  expect_same(5, 1, [](auto& p) { return p.template sums<1, 4, 4, true>(2, true); });
  expect_same(30, 8, [](auto& p) { return p.template sums<1, 4, 4, true>(3, true); });
  expect_same(2, 13, [](auto& p) { return p.template sums<2, 4, 4, true>(4, true); });
  expect_same(7, 32, [](auto& p) { return p.template sums<4, 4, 4, true>(5, true); });
}

TEST(DecodeSpmmBits, BatchInvariance) {
  check_batch_invariance<BitmapDecoder>(331, 0.4);
  check_batch_invariance<TiledCslDecoder>(256, 0.1);
  check_batch_invariance<TwoFourDecoder>(331, 0.2);
}

}  // namespace
}  // namespace gossamer
