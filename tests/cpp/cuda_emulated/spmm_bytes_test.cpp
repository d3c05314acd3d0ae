// The SpMM for 8-bit weights, its own source, on the emulator: packing and rounding of activations, rings, both decodings, products of
// warps and (wgmma) warpgroups, sums across warps and blocks, scales, epilogue; and the expansion. Against fp64; the same bits whatever the
// order of events.
#include "kernels/spmm_bytes.cuh"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "emulator.h"
#include "kernels/expand_bytes.cuh"
#include "kernels/pack_x.cuh"
#include "kernels/quantize_x.cuh"
#include "kernels/spmm_warp_specialized.cuh"
#include "plan/byte_plan.h"
#include "sparse/tiled_weight.h"

namespace gossamer {
namespace {

struct Problem {
  std::int64_t m, k, n;
  double density;
  int sms;                 // blocks at once, so how k is split
  bool is_aligned = true;  // whether x may be read directly
  // Weights and activations are small whole numbers, rows and tokens 3, 7, .. none below zero: no sum of 128 columns loses a bit, but one
  // of many would.
  bool is_whole = false;
};

template <ByteProduct kTheProduct, ByteDecoding kTheDecoding, bool kBf16, int kTiles, bool kPacksX, int kRowWarps, int kGroups>
struct MmaKernel {
  static constexpr ByteProduct kProduct = kTheProduct;
  static constexpr ByteDecoding kDecoding = kTheDecoding;
  static constexpr bool kIsBf16 = kBf16, kPackedX = kPacksX;
  static constexpr int kNTiles = kTiles;
  static constexpr SpmmShape kShape{SpmmKernel::mma, kRowWarps, kGroups, kPackedX};
  static constexpr PackedX kLayout = kProduct == ByteProduct::i8_i8 ? PackedX::bytes : PackedX::fragments;
  using Decoder = typename ByteDecoderOf<kProduct, kDecoding>::type;
  using Product = std::conditional_t<kProduct == ByteProduct::i8_i8, IntegerProduct<true, kNTiles>, WidenedProduct<kPackedX, kNTiles>>;
  using Layout = SpmmBytesLayout<Decoder, kNTiles, kRowWarps, kGroups>;
  static constexpr int kThreads = Layout::kWarps * 32;
  static int shared(const SpmmConfig& config) { return Layout::total(static_cast<int>(config.slot_bytes)); }
  static void run(const SpmmBytesParams& params) { spmm_bytes_kernel<Decoder, Product, kIsBf16, kNTiles, kRowWarps, kGroups>(params); }
};

template <ByteProduct kTheProduct, ByteDecoding kTheDecoding, bool kBf16, int kTiles, int kRowGroups, int kGroups>
struct WgmmaKernel {
  static constexpr ByteProduct kProduct = kTheProduct;
  static constexpr ByteDecoding kDecoding = kTheDecoding;
  static constexpr bool kIsBf16 = kBf16, kPackedX = true;
  static constexpr int kNTiles = kTiles;
  static constexpr SpmmShape kShape{SpmmKernel::warp_specialized, 4 * kRowGroups, kGroups};
  static constexpr PackedX kLayout = PackedX::byte_core_matrices;
  using Tile = ByteTile<SelectorsOf<kDecoding>>;
  using Product = std::conditional_t<kProduct == ByteProduct::i8_i8, I8Product, E4m3Product>;
  using Layout = WarpSpecializedLayout<Tile, kNTiles, kRowGroups, kGroups, kLayout>;
  static constexpr int kThreads = Layout::kThreads;
  static int shared(const SpmmConfig& config) { return Layout::total(static_cast<int>(config.slot_bytes), config.stages); }
  static void run(const SpmmBytesParams& params) {
    spmm_warp_specialized_kernel<Tile, kIsBf16, kNTiles, kRowGroups, kGroups, Product>(params);
  }
};

template <class Kernel>
class Emulated {
 public:
  static constexpr ByteProduct kProduct = Kernel::kProduct;
  static constexpr bool kIsBf16 = Kernel::kIsBf16;
  static constexpr DType kValues = kProduct == ByteProduct::e4m3_f16 || kProduct == ByteProduct::e4m3_e4m3 ? DType::e4m3 : DType::i8;
  static constexpr XValues kXValues = kProduct == ByteProduct::i8_i8       ? XValues::i8
                                      : kProduct == ByteProduct::e4m3_e4m3 ? XValues::e4m3
                                                                           : XValues::f16;
  using Half = std::conditional_t<kIsBf16, __nv_bfloat16, __half>;

  explicit Emulated(const Problem& p)
      : problem_(p), pool_(1), random_(static_cast<unsigned>(p.m * 31 + p.k * 7 + p.n)), dense_(allocator_, DType::f32, {p.m, p.k}) {
    OwnedScaledMatrix matrix(allocator_, kValues, p.m, p.k, p.k);
    std::bernoulli_distribution keep(p.density);
    auto* bytes = static_cast<std::uint8_t*>(matrix.view.values.raw());
    for (std::int64_t i = 0; i < p.m * p.k; ++i) {
      auto byte = static_cast<std::uint8_t>(1 + random_() % 255);
      if (p.is_whole) byte = whole_number(1, i / p.k);
      if (kValues == DType::e4m3 && (byte & 0x7fU) == 0x7fU) byte = 0x7e;
      bytes[i] = keep(random_) ? byte : 0;
    }
    for (std::int64_t r = 0; r < p.m; ++r) matrix.view.scales.data<float>()[r] = 0.001F * static_cast<float>(1 + random_() % 1000);
    scaled_to_dense(matrix.view, dense_.view);
    packed_ = std::make_unique<OwnedTiledWeight>(
        pack_tiles(sparse_from_scaled(matrix.view, allocator_).view, TileFormat::bitmap, allocator_, pool_));
    const TiledWeight& w = packed_->view;
    for (std::int64_t i = 0; Kernel::kDecoding == ByteDecoding::arithmetic && i < w.num_records(); ++i) {
      auto* masks = reinterpret_cast<std::uint32_t*>(w.data.data<std::uint8_t>() + w.offsets.data<std::int32_t>()[i] * kRecordUnit);
      for (int word = 0; word < 64; ++word) masks[word] = interleaved_mask(masks[word]);
    }
    x.resize(static_cast<std::size_t>(p.n * p.k));
    std::uniform_real_distribution<float> value(-1, 1);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto token = static_cast<std::int64_t>(i) / p.k;
      if (p.is_whole) {  // the first is the largest, so that scales are powers of two
        const auto bits = Float8E4M3{static_cast<std::int64_t>(i) % p.k == 0 ? to_float8_e4m3(7).bits : whole_number(0, token)};
        x[i] = half_of(token == 1 ? 0 : to_float(bits) * (token == 2 ? 256.0F : 0.125F));
        continue;
      }
      x[i] = half_of(token == 1 ? 0 : token == 2 ? 2000 * value(random_) : value(random_));
    }
    DeviceLimits limits;
    limits.num_sms = p.sms;
    plan = plan_spmm_bytes({TileFormat::bitmap, p.m, p.k, p.n, w.max_record_bytes, p.is_aligned && p.k % 8 == 0, Kernel::kShape}, kProduct,
                           kIsBf16, limits, Kernel::kDecoding);
  }

  // params: out and the epilogue.
  void run(SpmmBytesParams params, std::uint64_t seed) {
    const TiledWeight& w = packed_->view;
    const SpmmConfig& config = plan.config;
    ASSERT_EQ(config.n_tiles, Kernel::kNTiles);
    ASSERT_EQ(config.packs_x, Kernel::kPackedX);
    std::vector<float> partials(static_cast<std::size_t>(config.partial_floats), std::numeric_limits<float>::quiet_NaN());
    std::vector<float> token_scales(static_cast<std::size_t>(plan.token_scale_floats), std::numeric_limits<float>::quiet_NaN());
    std::vector<std::uint32_t> tickets(static_cast<std::size_t>(config.tickets));
    std::vector<uint4> packed_x(static_cast<std::size_t>(config.packed_x_bytes / 16), uint4{~0U, ~0U, ~0U, ~0U});
    params.row_scales = w.scales.data<float>();
    params.token_scales = plan.scales_x ? token_scales.data() : nullptr;
    SpmmParams& base = params.base;
    base.data = w.data.data<std::uint8_t>();
    base.offsets = reinterpret_cast<const std::uint32_t*>(w.offsets.data<std::int32_t>());
    base.x = x.data();
    base.partials = partials.data();
    base.tickets = tickets.data();
    base.packed_x = reinterpret_cast<std::uint8_t*>(packed_x.data());
    base.ldx = problem_.k;
    base.ldo = base.ldr = problem_.m;
    base.m = static_cast<std::int32_t>(problem_.m);
    base.k = static_cast<std::int32_t>(problem_.k);
    base.n = static_cast<std::int32_t>(problem_.n);
    base.row_blocks = static_cast<std::int32_t>(w.row_blocks());
    base.records = static_cast<std::int32_t>(w.records_per_row_block());
    base.slot_bytes = static_cast<std::uint32_t>(config.slot_bytes);
    base.x_is_aligned = problem_.is_aligned && problem_.k % 8 == 0;
    if (plan.scales_x) {
      emulator::run({static_cast<unsigned>(config.passes * config.n_tiles * 8), 1, kQuantizeThreads}, kQuantizeSharedBytes, seed,
                    [&] { quantize_x_kernel<Half, kXValues, Kernel::kLayout>(params, config.n_tiles); });
    } else if (Kernel::kPackedX) {
      emulator::run({static_cast<unsigned>((packed_x.size() + 255) / 256), 1, 256}, 0, seed,
                    [&] { pack_x_kernel<false>(base, config.n_tiles, config.passes); });
    }
    base.stages = config.stages;
    ASSERT_EQ(Kernel::shared(config), config.shared_bytes);
    emulator::run({static_cast<unsigned>(config.ctas), static_cast<unsigned>(config.passes), Kernel::kThreads},
                  static_cast<std::uint32_t>(config.shared_bytes), seed, [&] { Kernel::run(params); });
    for (const std::uint32_t t : tickets) ASSERT_EQ(t, 0U);
  }

  std::vector<float> sums(std::uint64_t seed) {
    std::vector<float> out(static_cast<std::size_t>(problem_.n * problem_.m), std::numeric_limits<float>::quiet_NaN());
    SpmmBytesParams params;
    params.base.out = out.data();
    params.base.out_type = SpmmOut::f32;
    run(params, seed);
    return out;
  }

  // fp32 sums of k products and the scales' roundings; of x rounded as quantize_x does. Of e4m3 by e4m3, but for small whole numbers, each
  // product of 128 columns also loses what is below 2^-13 of its largest term, of 33 terms, four times.
  void expect_products(const std::vector<float>& out) const {
    const auto* w = dense_.view.template data<const float>();
    for (std::int64_t n = 0; n < problem_.n; ++n) {
      std::vector<double> seen(static_cast<std::size_t>(problem_.k));
      float top = 0;
      for (std::int64_t c = 0; c < problem_.k; ++c) top = std::max(top, std::abs(x_at(n, c)));
      for (std::int64_t c = 0; c < problem_.k; ++c) {
        const float v = x_at(n, c);
        const float inverse = top == 0 ? 0.0F : largest_of(kXValues) / top;
        const double scale = top / largest_of(kXValues);
        seen[static_cast<std::size_t>(c)] = kXValues == XValues::i8     ? std::nearbyint(v * inverse) * scale
                                            : kXValues == XValues::e4m3 ? to_float(to_float8_e4m3(v * inverse)) * scale
                                                                        : v;
      }
      for (std::int64_t r = 0; r < problem_.m; ++r) {
        double sum = 0, norm = 0;
        for (std::int64_t c = 0; c < problem_.k; ++c) {
          const double product = w[r * problem_.k + c] * seen[static_cast<std::size_t>(c)];
          sum += product;
          norm += std::abs(product);
        }
        const double lost = kProduct == ByteProduct::e4m3_e4m3 && !problem_.is_whole ? 4 * 33 * std::ldexp(1.0, -13) : 0;
        const double bound = (4 * std::ldexp(1.0, -24) * (std::sqrt(static_cast<double>(problem_.k)) + 12) + lost) * norm + 1e-30;
        ASSERT_LE(std::abs(out[static_cast<std::size_t>(n * problem_.m + r)] - sum), bound)
            << plan.config.to_string() << " at n " << n << ", row " << r;
      }
    }
  }

  void expect_expansion(std::uint64_t seed) {
    const TiledWeight& w = packed_->view;
    using Decoder = typename Kernel::Decoder;
    using Expander = ExpandBytesLayout<Decoder>;
    const std::int64_t ldw = (problem_.k + 7) / 8 * 8;
    std::vector<uint4> out(static_cast<std::size_t>(problem_.m * ldw / 8), uint4{~0U, ~0U, ~0U, ~0U});
    ExpandBytesParams params;
    params.row_scales = w.scales.data<float>();
    params.base.data = w.data.data<std::uint8_t>();
    params.base.offsets = reinterpret_cast<const std::uint32_t*>(w.offsets.data<std::int32_t>());
    params.base.out = out.data();
    params.base.ldw = ldw;
    params.base.m = static_cast<std::int32_t>(problem_.m);
    params.base.row_blocks = static_cast<std::int32_t>(w.row_blocks());
    params.base.records = static_cast<std::int32_t>(w.records_per_row_block());
    params.base.slot_bytes = static_cast<std::uint32_t>(w.max_record_bytes + 16);
    emulator::run({3, 1, Expander::kWarps * 32}, static_cast<std::uint32_t>(Expander::total(static_cast<int>(params.base.slot_bytes))),
                  seed, [&] { expand_bytes_kernel<Decoder, Half>(params); });
    const Half* halves = reinterpret_cast<const Half*>(out.data());
    for (std::int64_t r = 0; r < problem_.m; ++r) {
      for (std::int64_t c = 0; c < ldw; ++c) {
        const float exact = c < problem_.k ? dense_.view.template data<const float>()[r * problem_.k + c] : 0.0F;
        ASSERT_EQ(static_cast<float>(halves[r * ldw + c]), static_cast<float>(Half(exact))) << "row " << r << ", column " << c;
      }
    }
  }

  static std::uint16_t half_of(float v) { return kIsBf16 ? to_bfloat16(v).bits : to_float16(v).bits; }
  static float value_of(std::uint16_t bits) { return kIsBf16 ? to_float(BFloat16{bits}) : to_float(Float16{bits}); }
  float x_at(std::int64_t n, std::int64_t c) const { return value_of(x[static_cast<std::size_t>(n * problem_.k + c)]); }
  float weight_at(std::int64_t r, std::int64_t c) const { return dense_.view.template data<const float>()[r * problem_.k + c]; }

  BytePlan plan;
  std::vector<std::uint16_t> x;  // [n, k]

 private:
  std::uint8_t whole_number(int least, std::int64_t line) {
    const int magnitude = least + static_cast<int>(random_() % static_cast<unsigned>(8 - least)),
              sign = line % 4 == 3 || random_() % 2 != 0 ? 1 : -1;
    return kValues == DType::e4m3 ? to_float8_e4m3(static_cast<float>(sign * magnitude)).bits : static_cast<std::uint8_t>(sign * magnitude);
  }

  Problem problem_;
  HostAllocator allocator_;
  ThreadPool pool_;
  std::mt19937 random_;
  OwnedTensor dense_;
  std::unique_ptr<OwnedTiledWeight> packed_;
};

constexpr auto kTable = ByteDecoding::table, kArithmetic = ByteDecoding::arithmetic;

template <class Kernel>
void check_kernel(const Problem& p) {
  Emulated<Kernel> emulated(p);
  const std::vector<float> out = emulated.sums(1);
  emulated.expect_products(out);
  const std::vector<float> again = emulated.sums(2);
  EXPECT_EQ(std::memcmp(out.data(), again.data(), out.size() * sizeof(float)), 0);
}

template <ByteProduct kProduct, ByteDecoding kDecoding, bool kIsBf16, int kNTiles, bool kPackedX, int kRowWarps, int kGroups>
using EmulatedMma = Emulated<MmaKernel<kProduct, kDecoding, kIsBf16, kNTiles, kPackedX, kRowWarps, kGroups>>;
template <ByteProduct kProduct, ByteDecoding kDecoding, bool kIsBf16, int kNTiles, bool kPackedX, int kRowWarps, int kGroups>
void check(const Problem& p) {
  check_kernel<MmaKernel<kProduct, kDecoding, kIsBf16, kNTiles, kPackedX, kRowWarps, kGroups>>(p);
}
template <ByteProduct kProduct, ByteDecoding kDecoding, bool kIsBf16, int kNTiles, int kRowGroups, int kGroups>
void check_wgmma(const Problem& p) {
  check_kernel<WgmmaKernel<kProduct, kDecoding, kIsBf16, kNTiles, kRowGroups, kGroups>>(p);
}

template <class Kernel>
void expect_epilogue(const Problem& p) {
  Emulated<Kernel> emulated(p);
  const std::vector<float> sums = emulated.sums(1);
  std::vector<std::uint16_t> bias(static_cast<std::size_t>(p.m)), residual(sums.size()), out(sums.size());
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = emulated.half_of(static_cast<float>(i) / 10 - 3);
  for (std::size_t i = 0; i < residual.size(); ++i) residual[i] = emulated.half_of(static_cast<float>(i % 37) / 5 - 2);
  SpmmBytesParams params;
  params.base.out = out.data();
  params.base.bias = bias.data();
  params.base.residual = residual.data();
  params.base.activation = SpmmActivation::relu;
  emulated.run(params, 3);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const float expected = std::max(sums[i] + emulated.value_of(bias[i % bias.size()]), 0.0F) + emulated.value_of(residual[i]);
    ASSERT_EQ(out[i], emulated.half_of(expected)) << i;
  }
}

TEST(BytesSpmm, WidensE4m3) {
  check<ByteProduct::e4m3_f16, kTable, false, 1, false, 4, 4>({130, 712, 5, 0.5, 2});
  check<ByteProduct::e4m3_f16, kTable, false, 2, true, 4, 4>({97, 331, 13, 0.3, 1});
  check<ByteProduct::e4m3_f16, kTable, true, 1, true, 4, 4>({130, 520, 8, 0.5, 2});
  check<ByteProduct::e4m3_f16, kArithmetic, false, 1, false, 4, 4>({130, 712, 5, 0.5, 2});
}

TEST(BytesSpmm, WidensI8) {
  check<ByteProduct::i8_f16, kTable, false, 1, false, 4, 4>({130, 712, 5, 0.5, 2});
  check<ByteProduct::i8_f16, kTable, true, 2, true, 4, 4>({97, 331, 13, 0.3, 1});
}

TEST(BytesSpmm, MultipliesI8) {
  check<ByteProduct::i8_i8, kTable, false, 1, true, 4, 4>({130, 712, 5, 0.5, 2});
  check<ByteProduct::i8_i8, kTable, true, 2, true, 4, 4>({97, 331, 13, 0.3, 1});
  check<ByteProduct::i8_i8, kArithmetic, false, 1, true, 4, 4>({130, 712, 5, 0.5, 2});
  check<ByteProduct::i8_i8, kArithmetic, false, 2, true, 1, 32>({50, 2200, 16, 0.4, 3});
}

TEST(BytesSpmm, ManyWarpsAlongK) {
  check<ByteProduct::e4m3_f16, kTable, false, 1, false, 1, 32>({64, 2500 / 8 * 8, 3, 0.5, 4});
  check<ByteProduct::e4m3_f16, kTable, false, 2, false, 1, 32>({40, 2304, 16, 0.5, 2});
  check<ByteProduct::i8_i8, kTable, true, 1, true, 1, 32>({64, 2500, 3, 0.5, 4});
}

TEST(BytesSpmm, FourTilesAndPasses) {
  check<ByteProduct::i8_i8, kTable, false, 4, true, 4, 4>({70, 300, 29, 0.5, 1});
  check<ByteProduct::e4m3_f16, kTable, false, 4, true, 4, 4>({70, 300, 45, 0.5, 1});  // two passes
}

TEST(BytesSpmm, EmptyFullAndTinyWeights) {
  check<ByteProduct::i8_i8, kTable, false, 1, true, 4, 4>({1, 1, 1, 1.0, 2});
  check<ByteProduct::i8_i8, kTable, false, 1, true, 4, 4>({160, 512, 8, 1.0, 1});
  check<ByteProduct::e4m3_f16, kTable, false, 1, false, 4, 4>({160, 512, 8, 1.0, 1});
  check<ByteProduct::e4m3_f16, kArithmetic, false, 1, false, 4, 4>({160, 512, 8, 1.0, 1});
  check<ByteProduct::e4m3_f16, kTable, false, 1, false, 4, 4>({64, 256, 8, 0.0, 1});
  check<ByteProduct::i8_f16, kTable, false, 1, true, 4, 4>({33, 65, 2, 1.0, 1, false});
}

// 128 columns are two steps, the last of which may be alone; x of 64 tokens and of 128.
TEST(BytesSpmm, MultipliesE4m3ByE4m3OnWarpgroups) {
  constexpr auto kE4m3 = ByteProduct::e4m3_e4m3;
  check_wgmma<kE4m3, kTable, false, 8, 3, 1>({.m = 230, .k = 800, .n = 61, .density = 0.5, .sms = 3});
  check_wgmma<kE4m3, kTable, true, 8, 2, 2>({.m = 100, .k = 331, .n = 9, .density = 0.3, .sms = 1});
  check_wgmma<kE4m3, kArithmetic, false, 8, 4, 1>({.m = 300, .k = 250, .n = 33, .density = 0.5, .sms = 2});
  check_wgmma<kE4m3, kTable, false, 16, 2, 1>({.m = 95, .k = 450, .n = 120, .density = 0.4, .sms = 2});
  check_wgmma<kE4m3, kTable, false, 16, 2, 1>({.m = 64, .k = 130, .n = 140, .density = 0.4, .sms = 1});  // two passes
}

TEST(BytesSpmm, SumsOfE4m3GoOnInFp32) {
  constexpr auto kE4m3 = ByteProduct::e4m3_e4m3;
  check_wgmma<kE4m3, kTable, false, 8, 2, 2>({.m = 70, .k = 3000, .n = 12, .density = 0.9, .sms = 1, .is_whole = true});
  check_wgmma<kE4m3, kArithmetic, false, 16, 2, 1>({.m = 60, .k = 2100, .n = 12, .density = 1.0, .sms = 1, .is_whole = true});
  check_wgmma<kE4m3, kTable, true, 16, 2, 1>({.m = 130, .k = 1900, .n = 70, .density = 0.8, .sms = 1, .is_whole = true});
}

TEST(BytesSpmm, MultipliesI8ByI8OnWarpgroups) {
  check_wgmma<ByteProduct::i8_i8, kTable, false, 8, 3, 1>({.m = 230, .k = 500, .n = 61, .density = 0.5, .sms = 3});
  check_wgmma<ByteProduct::i8_i8, kArithmetic, false, 8, 2, 2>({.m = 100, .k = 331, .n = 9, .density = 0.3, .sms = 1});
  check_wgmma<ByteProduct::i8_i8, kTable, true, 16, 2, 1>({.m = 95, .k = 450, .n = 120, .density = 0.4, .sms = 2});
}

TEST(BytesSpmm, EmptyFullAndTinyWeightsOnWarpgroups) {
  constexpr auto kE4m3 = ByteProduct::e4m3_e4m3;
  check_wgmma<kE4m3, kTable, false, 8, 2, 2>({.m = 1, .k = 1, .n = 1, .density = 1.0, .sms = 3});
  check_wgmma<kE4m3, kTable, false, 8, 4, 1>({.m = 64, .k = 256, .n = 33, .density = 0.0, .sms = 1});
  check_wgmma<kE4m3, kArithmetic, false, 8, 4, 1>({.m = 280, .k = 200, .n = 33, .density = 1.0, .sms = 2});
  check_wgmma<ByteProduct::i8_i8, kTable, false, 16, 2, 1>({.m = 140, .k = 330, .n = 33, .density = 1.0, .sms = 2});
}

TEST(BytesSpmm, WarpgroupsTakeScaledSumsThroughTheEpilogue) {
  expect_epilogue<WgmmaKernel<ByteProduct::e4m3_e4m3, kTable, false, 8, 2, 2>>({.m = 70, .k = 330, .n = 33, .density = 0.5, .sms = 3});
}

TEST(BytesSpmm, ExpandsIntoHalves) {
  EmulatedMma<ByteProduct::e4m3_f16, kTable, false, 1, false, 4, 4>({130, 328, 1, 0.5, 1}).expect_expansion(1);
  EmulatedMma<ByteProduct::e4m3_f16, kTable, true, 1, true, 4, 4>({97, 331, 1, 1.0, 1}).expect_expansion(2);
  EmulatedMma<ByteProduct::i8_f16, kTable, false, 1, true, 4, 4>({97, 331, 1, 0.4, 1, false}).expect_expansion(3);
}

TEST(BytesSpmm, TakesSumsThroughTheEpilogue) {
  expect_epilogue<MmaKernel<ByteProduct::i8_i8, kTable, true, 1, true, 4, 4>>({70, 520, 6, 0.5, 2});
}

TEST(BytesSpmm, ATokenThatIsNotFiniteSpoilsItselfOnly) {
  const Problem p{40, 200, 3, 0.5, 1};
  const auto spoil = [&](auto emulated, float value) {
    const std::vector<float> before = emulated.sums(1);
    emulated.x[3] = emulated.half_of(value);
    const std::vector<float> after = emulated.sums(1);
    for (std::int64_t r = 0; r < p.m; ++r) {
      if (emulated.weight_at(r, 3) != 0) {
        EXPECT_FALSE(std::isfinite(after[static_cast<std::size_t>(r)])) << r;
      }
    }
    for (std::size_t i = static_cast<std::size_t>(p.m); i < after.size(); ++i) EXPECT_EQ(after[i], before[i]);
  };
  for (const float value : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    spoil(EmulatedMma<ByteProduct::i8_i8, kTable, false, 1, true, 4, 4>(p), value);
    spoil(EmulatedMma<ByteProduct::e4m3_f16, kTable, true, 1, true, 4, 4>(p), value);
    spoil(EmulatedMma<ByteProduct::i8_f16, kTable, false, 1, false, 4, 4>(p), value);
  }
  spoil(Emulated<WgmmaKernel<ByteProduct::e4m3_e4m3, kTable, false, 16, 2, 1>>(p), std::numeric_limits<float>::infinity());
}

}  // namespace
}  // namespace gossamer
