// The warp-specialised SpMM, its own source, on the emulator: packing of activations, copies and barriers, the walk over tiles, products
// from registers, sums across teams and blocks, epilogue. Against fp64; the same bits whatever the order of events.
#include "kernels/spmm_warp_specialized.cuh"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "emulator.h"
#include "kernels/pack_x.cuh"
#include "plan/spmm_plan.h"
#include "sparse/tiled_weight.h"

namespace gossamer {
namespace {

std::uint16_t bits_of(float v, bool bf16) { return bf16 ? to_bfloat16(v).bits : to_float16(v).bits; }
float value_of(std::uint16_t bits, bool bf16) { return bf16 ? to_float(BFloat16{bits}) : to_float(Float16{bits}); }

struct Problem {
  std::int64_t m, k, n;
  double density;
  int sms;  // blocks at once, so how k is split
};

template <class T>
constexpr TileFormat format_of() {
  return T::kScratchBytes == 0 ? TileFormat::bitmap : TileFormat::tiled_csl;
}

template <class Tile, bool kIsBf16, int kNTiles, int kRowGroups, int kGroups>
class Emulated {
 public:
  using Layout = WarpSpecializedLayout<Tile, kNTiles, kRowGroups, kGroups>;
  static_assert(Layout::kConsumers * 32 * Layout::kConsumerRegisters + 128 * Layout::kCopierRegisters <= 65536, "registers of an SM");
  static_assert(kGroups * (Layout::kRowBlocks + 1) <= 32, "a lane for every copy of a step");

  explicit Emulated(const Problem& p)
      : problem_(p), pool_(1), random_(static_cast<unsigned>(p.m * 31 + p.k * 7 + p.n)), dense_(allocator_, kDType, {p.m, p.k}) {
    std::uniform_real_distribution<float> value(-1, 1);
    std::uniform_real_distribution<double> chance(0, 1);
    auto* w = static_cast<std::uint16_t*>(dense_.view.raw());
    for (std::int64_t i = 0; i < p.m * p.k; ++i) w[i] = chance(random_) < p.density ? bits_of(value(random_), kIsBf16) : 0;
    x_ = random_halves(p.n * p.k);
    const OwnedSparseWeight sparse = sparse_from_dense(dense_.view, allocator_);
    packed_ = std::make_unique<OwnedTiledWeight>(pack_tiles(sparse.view, format_of<Tile>(), allocator_, pool_));
    DeviceLimits limits;
    limits.num_sms = p.sms;
    const SpmmShape shape{SpmmKernel::warp_specialized, 4 * kRowGroups, kGroups};
    config = plan_spmm({format_of<Tile>(), p.m, p.k, p.n, packed_->view.max_record_bytes, p.k % 8 == 0, shape}, limits);
  }

  std::vector<std::uint16_t> random_halves(std::int64_t count) {
    std::uniform_real_distribution<float> value(-1, 1);
    std::vector<std::uint16_t> v(static_cast<std::size_t>(count));
    for (auto& h : v) h = bits_of(value(random_), kIsBf16);
    return v;
  }

  // params: out and the epilogue.
  void run(SpmmParams params, std::uint64_t seed) {
    const TiledWeight& w = packed_->view;
    std::vector<float> partials(static_cast<std::size_t>(config.partial_floats), std::numeric_limits<float>::quiet_NaN());
    std::vector<std::uint32_t> tickets(static_cast<std::size_t>(config.tickets));
    std::vector<uint4> packed_x(static_cast<std::size_t>(config.packed_x_bytes / 16), uint4{~0U, ~0U, ~0U, ~0U});
    params.data = w.data.data<std::uint8_t>();
    params.offsets = reinterpret_cast<const std::uint32_t*>(w.offsets.data<std::int32_t>());
    params.x = x_.data();
    params.partials = partials.data();
    params.tickets = tickets.data();
    params.packed_x = reinterpret_cast<std::uint8_t*>(packed_x.data());
    params.ldx = problem_.k;
    params.ldo = params.ldr = problem_.m;
    params.m = static_cast<std::int32_t>(problem_.m);
    params.k = static_cast<std::int32_t>(problem_.k);
    params.n = static_cast<std::int32_t>(problem_.n);
    params.row_blocks = static_cast<std::int32_t>(w.row_blocks());
    params.records = static_cast<std::int32_t>(w.records_per_row_block());
    params.slot_bytes = static_cast<std::uint32_t>(config.slot_bytes);
    params.stages = config.stages;
    params.x_is_aligned = false;
    emulator::run({static_cast<unsigned>((packed_x.size() + 255) / 256), 1, 256}, 0, seed,
                  [&] { pack_x_kernel<true>(params, kNTiles, config.passes); });
    const int shared = Layout::total(static_cast<int>(config.slot_bytes), config.stages);
    ASSERT_EQ(shared, config.shared_bytes);
    ASSERT_EQ(config.n_tiles, kNTiles);
    emulator::run({static_cast<unsigned>(config.ctas), static_cast<unsigned>(config.passes), Layout::kThreads},
                  static_cast<std::uint32_t>(shared), seed,
                  [&] { spmm_warp_specialized_kernel<Tile, kIsBf16, kNTiles, kRowGroups, kGroups>(params); });
    for (const std::uint32_t t : tickets) ASSERT_EQ(t, 0U);
  }

  std::vector<float> sums(std::uint64_t seed) {
    std::vector<float> out(static_cast<std::size_t>(problem_.n * problem_.m), std::numeric_limits<float>::quiet_NaN());
    SpmmParams params;
    params.out = out.data();
    params.out_type = SpmmOut::f32;
    run(params, seed);
    return out;
  }

  // fp32 sums of k products: k eps |w||x|, as the GPU test has it.
  void expect_products(const std::vector<float>& out) const {
    const auto* w = static_cast<const std::uint16_t*>(dense_.view.raw());
    for (std::int64_t n = 0; n < problem_.n; ++n) {
      for (std::int64_t r = 0; r < problem_.m; ++r) {
        double sum = 0, norm = 0;
        for (std::int64_t c = 0; c < problem_.k; ++c) {
          const double product = static_cast<double>(value_of(w[r * problem_.k + c], kIsBf16)) *
                                 value_of(x_[static_cast<std::size_t>(n * problem_.k + c)], kIsBf16);
          sum += product;
          norm += std::abs(product);
        }
        const double bound = 4 * std::ldexp(1.0, -24) * (std::sqrt(static_cast<double>(problem_.k)) + 8) * norm + 1e-30;
        ASSERT_LE(std::abs(out[static_cast<std::size_t>(n * problem_.m + r)] - sum), bound)
            << config.to_string() << " at n " << n << ", row " << r;
      }
    }
  }

  SpmmConfig config;

 private:
  static constexpr DType kDType = kIsBf16 ? DType::bf16 : DType::f16;
  Problem problem_;
  HostAllocator allocator_;
  ThreadPool pool_;
  std::mt19937 random_;
  OwnedTensor dense_;
  std::vector<std::uint16_t> x_;
  std::unique_ptr<OwnedTiledWeight> packed_;
};

template <class Tile, bool kIsBf16, int kNTiles, int kRowGroups, int kGroups>
void check(const Problem& p) {
  Emulated<Tile, kIsBf16, kNTiles, kRowGroups, kGroups> emulated(p);
  const std::vector<float> out = emulated.sums(1);
  emulated.expect_products(out);
  const std::vector<float> again = emulated.sums(2);
  EXPECT_EQ(std::memcmp(out.data(), again.data(), out.size() * sizeof(float)), 0);
}

TEST(WarpSpecializedSpmm, TeamsSplitK) {
  check<BitmapTile, false, 4, 2, 2>({100, 700, 25, 0.4, 1});
  check<TiledCslTile, true, 4, 2, 2>({100, 700, 25, 0.2, 1});
  check<BitmapTile, true, 8, 2, 2>({130, 64, 40, 0.5, 1});  // one step: a team without any
}

TEST(WarpSpecializedSpmm, BlocksShareRows) {
  check<BitmapTile, false, 4, 4, 1>({300, 1100, 7, 0.5, 5});
  check<TiledCslTile, false, 4, 6, 1>({500, 600, 32, 0.3, 5});
  check<BitmapTile, true, 8, 2, 2>({257, 1031, 61, 0.5, 7});
}

TEST(WarpSpecializedSpmm, ManyTokensAndPasses) {
  check<BitmapTile, true, 16, 3, 1>({200, 450, 100, 0.3, 2});
  check<BitmapTile, false, 16, 4, 1>({95, 72, 120, 0.2, 2});
  check<TiledCslTile, false, 16, 2, 2>({95, 272, 128, 0.2, 2});
  check<BitmapTile, false, 24, 3, 1>({180, 300, 190, 0.5, 1});
  check<BitmapTile, false, 32, 2, 1>({150, 600, 300, 0.4, 2});  // two passes
}

TEST(WarpSpecializedSpmm, EmptyFullAndTinyWeights) {
  check<BitmapTile, false, 4, 2, 2>({1, 1, 1, 1.0, 3});
  check<BitmapTile, false, 8, 4, 1>({64, 256, 33, 0.0, 1});
  check<BitmapTile, false, 8, 4, 1>({280, 900, 33, 1.0, 2});
  check<TiledCslTile, false, 8, 4, 1>({280, 900, 33, 0.5, 2});  // tiles with more non-zeros than registers for their addresses
}

TEST(WarpSpecializedSpmm, TakesSumsThroughTheEpilogue) {
  const Problem p{70, 520, 33, 0.5, 3};
  Emulated<BitmapTile, false, 8, 2, 2> emulated(p);
  const std::vector<float> sums = emulated.sums(1);
  const std::vector<std::uint16_t> bias = emulated.random_halves(p.m), residual = emulated.random_halves(p.n * p.m);
  std::vector<std::uint16_t> out(sums.size());
  SpmmParams params;
  params.out = out.data();
  params.bias = bias.data();
  params.residual = residual.data();
  params.activation = SpmmActivation::relu;
  emulated.run(params, 3);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const float expected =
        std::max(sums[i] + value_of(bias[i % static_cast<std::size_t>(p.m)], false), 0.0F) + value_of(residual[i], false);
    ASSERT_EQ(out[i], bits_of(expected, false)) << i;
  }
}

TEST(WarpSpecializedSpmm, DeadlocksWithTwoStages) {  // as its header argues
  Emulated<BitmapTile, false, 8, 4, 1> emulated({64, 900, 33, 0.5, 1});
  emulated.config.stages = 2;
  using Layout = decltype(emulated)::Layout;
  emulated.config.shared_bytes = Layout::total(static_cast<int>(emulated.config.slot_bytes), 2);
  EXPECT_THROW(emulated.sums(1), std::runtime_error);
}

}  // namespace
}  // namespace gossamer
