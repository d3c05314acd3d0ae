// The SpMM for 8-bit weights on a GPU against fp64: products, dtypes, decodings, odd sizes, full and empty tiles, epilogues, poisoned
// outputs, bitwise repeats, tokens that are zero or not finite.
#include <cmath>
#include <cstring>
#include <optional>
#include <random>

#include "launch/expand_bytes.h"
#include "launch/spmm_bytes.h"
#include "on_device.h"
#include "sparse/tiled_weight.h"

namespace gossamer {
namespace {

struct Problem {
  std::int64_t m, k, n;
  double density;
};

// What is multiplied, and by which kernel.
struct Case {
  ByteProduct product;
  std::optional<SpmmShape> shape;  // none: the planner's choice
  // Weights and activations are small whole numbers, rows and tokens 3, 7, .. none below zero: wgmma loses no bit of a sum of 128 columns
  // of e4m3, but would of longer ones.
  bool is_whole = false;

  DType values() const { return product == ByteProduct::e4m3_f16 || product == ByteProduct::e4m3_e4m3 ? DType::e4m3 : DType::i8; }
  bool by_wgmma() const { return shape && shape->kernel == SpmmKernel::warp_specialized; }
};

std::uint16_t bits_of(float v, bool bf16) { return bf16 ? to_bfloat16(v).bits : to_float16(v).bits; }
float value_of(std::uint16_t bits, bool bf16) { return bf16 ? to_float(BFloat16{bits}) : to_float(Float16{bits}); }

float whole_number(int least, std::int64_t line, std::mt19937& random) {
  const int magnitude = least + static_cast<int>(random() % static_cast<unsigned>(8 - least));
  return static_cast<float>(line % 4 == 3 || random() % 2 != 0 ? magnitude : -magnitude);
}

OwnedScaledMatrix random_weight(const Problem& p, const Case& c, std::mt19937& random, Allocator& allocator) {
  const DType dtype = c.values();
  OwnedScaledMatrix w(allocator, dtype, p.m, p.k, p.k);
  std::bernoulli_distribution keep(p.density);
  auto* bytes = static_cast<std::uint8_t*>(w.view.values.raw());
  for (std::int64_t i = 0; i < p.m * p.k; ++i) {
    auto byte = static_cast<std::uint8_t>(random());
    if (dtype == DType::e4m3 && (byte & 0x7fU) == 0x7fU) byte = 0x7e;
    if (dtype == DType::i8 && byte == 0x80) byte = 0x81;
    if (c.is_whole) byte = to_float8_e4m3(whole_number(1, i / p.k, random)).bits;
    bytes[i] = keep(random) ? byte : 0;
  }
  for (std::int64_t r = 0; r < p.m; ++r) w.view.scales.data<float>()[r] = 0.001F * static_cast<float>(1 + random() % 1000);
  return w;
}

// What the product sees of x: as it is, or rounded to multiples of the token's scale.
struct Seen {
  std::vector<double> x;
  std::vector<float> scale;  // 0: as it is
};
Seen seen(const std::vector<std::uint16_t>& x, const Problem& p, ByteProduct product, bool bf16) {
  Seen s{std::vector<double>(x.size()), std::vector<float>(static_cast<std::size_t>(p.n))};
  for (std::size_t n = 0; n < static_cast<std::size_t>(p.n); ++n) {
    const std::size_t first = n * static_cast<std::size_t>(p.k), end = first + static_cast<std::size_t>(p.k);
    float top = 0;
    for (std::size_t i = first; i < end; ++i) top = std::max(top, std::abs(value_of(x[i], bf16)));
    const float largest = product == ByteProduct::i8_i8 ? 127.0F : 448.0F, inverse = top > 0 ? largest / top : 0.0F;
    if (product == ByteProduct::i8_i8 || product == ByteProduct::e4m3_e4m3) s.scale[n] = top / largest;
    for (std::size_t i = first; i < end; ++i) {
      const float v = value_of(x[i], bf16);
      s.x[i] = product == ByteProduct::i8_i8       ? std::nearbyint(v * inverse) * static_cast<double>(s.scale[n])
               : product == ByteProduct::e4m3_e4m3 ? to_float(to_float8_e4m3(v * inverse)) * static_cast<double>(s.scale[n])
                                                   : v;
    }
  }
  return s;
}

class SpmmBytesOnGpu : public ::testing::TestWithParam<std::tuple<Case, bool, ByteDecoding, Problem>> {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "no NVIDIA GPU here";
    if (std::get<0>(GetParam()).by_wgmma() && !limits_of_device_0().wgmma) GTEST_SKIP() << "no wgmma on this GPU";
  }
};

TEST_P(SpmmBytesOnGpu, MatchesDoublePrecision) {
  const auto [c, bf16, decoding, p] = GetParam();
  const ByteProduct product = c.product;
  std::mt19937 random(static_cast<unsigned>(p.m * 31 + p.k * 7 + p.n));
  std::uniform_real_distribution<float> value(-1, 1);
  HostAllocator allocator;
  ThreadPool pool(2);
  const OwnedScaledMatrix matrix = random_weight(p, c, random, allocator);
  OwnedTensor dense(allocator, DType::f32, {p.m, p.k});
  scaled_to_dense(matrix.view, dense.view);
  OwnedTiledWeight packed = pack_tiles(sparse_from_scaled(matrix.view, allocator).view, TileFormat::bitmap, allocator, pool);
  const TiledWeight& w = packed.view;
  if (decoding == ByteDecoding::arithmetic) {
    for (std::int64_t i = 0; i < w.num_records(); ++i) {
      auto* masks = reinterpret_cast<std::uint32_t*>(w.data.data<std::uint8_t>() + w.offsets.data<std::int32_t>()[i] * kRecordUnit);
      for (int word = 0; word < 64; ++word) masks[word] = interleaved_mask(masks[word]);
    }
  }
  const auto random_halves = [&](std::int64_t count) {
    std::vector<std::uint16_t> v(static_cast<std::size_t>(count));
    for (auto& h : v) h = bits_of(value(random), bf16);
    return v;
  };
  std::vector<std::uint16_t> x = random_halves(p.n * p.k);
  for (std::int64_t i = 0; i < p.k; ++i) {
    for (std::int64_t n = 0; c.is_whole && n < p.n; ++n) {  // the first is the largest, so that scales are powers of two
      x[static_cast<std::size_t>(n * p.k + i)] = bits_of((i == 0 ? 7.0F : whole_number(0, n, random)) / 8, bf16);
    }
    if (p.n > 2) x[static_cast<std::size_t>(p.k + i)] = 0;  // token 1 is zero
    if (p.n > 3 && !c.is_whole) x[static_cast<std::size_t>(2 * p.k + i)] = bits_of(2000 * value(random), bf16);
  }
  const std::vector<std::uint16_t> bias = random_halves(p.m), residual = random_halves(p.n * p.m), multiplier = random_halves(p.n * p.m);

  const DeviceLimits limits = limits_of_device_0();
  const bool aligned = p.k % 8 == 0;
  const BytePlan plan =
      plan_spmm_bytes({TileFormat::bitmap, p.m, p.k, p.n, w.max_record_bytes, aligned, c.shape}, product, bf16, limits, decoding);
  const DeviceArray<std::uint8_t> d_data(w.data.data<std::uint8_t>(), w.data.nbytes());
  const DeviceArray<std::int32_t> d_offsets(w.offsets.data<std::int32_t>(), w.num_records() + 1);
  const DeviceArray<float> d_scales(w.scales.data<float>(), p.m);
  const DeviceArray<std::uint16_t> d_x(x), d_bias(bias), d_residual(residual), d_multiplier(multiplier);
  const DeviceArray<float> d_partials(static_cast<std::size_t>(plan.config.partial_floats));
  const DeviceArray<float> d_token_scales(static_cast<std::size_t>(plan.token_scale_floats));
  const DeviceArray<std::uint32_t> d_tickets(static_cast<std::size_t>(plan.config.tickets), 0);
  const DeviceArray<std::uint8_t> d_packed_x(static_cast<std::size_t>(plan.config.packed_x_bytes));
  SpmmBytesParams params;
  params.row_scales = d_scales.get();
  params.token_scales = d_token_scales.get();
  SpmmParams& b = params.base;
  b.data = d_data.get();
  b.offsets = reinterpret_cast<const std::uint32_t*>(d_offsets.get());
  b.x = d_x.get();
  b.partials = d_partials.get();
  b.tickets = d_tickets.get();
  b.packed_x = d_packed_x.get();
  b.ldx = p.k;
  b.ldo = b.ldr = p.m;
  b.m = static_cast<std::int32_t>(p.m);
  b.k = static_cast<std::int32_t>(p.k);
  b.n = static_cast<std::int32_t>(p.n);
  b.row_blocks = static_cast<std::int32_t>(w.row_blocks());
  b.records = static_cast<std::int32_t>(w.records_per_row_block());
  b.slot_bytes = static_cast<std::uint32_t>(plan.config.slot_bytes);
  b.x_is_aligned = aligned;

  // The expansion rounds value times scale once, and is zero where there is nothing.
  if (decoding == ByteDecoding::table && (product == ByteProduct::e4m3_f16 || product == ByteProduct::i8_f16)) {
    ExpandBytesParams expand;
    expand.row_scales = params.row_scales;
    expand.base.data = b.data;
    expand.base.offsets = b.offsets;
    expand.base.ldw = (p.k + 7) / 8 * 8;
    const DeviceArray<std::uint16_t> d_expanded(static_cast<std::size_t>(p.m * expand.base.ldw));
    expand.base.out = d_expanded.get();
    expand.base.m = b.m;
    expand.base.row_blocks = b.row_blocks;
    expand.base.records = b.records;
    expand.base.slot_bytes = b.slot_bytes;
    ok(launch_expand_bytes(expand, c.values() == DType::e4m3, bf16, limits.num_sms, nullptr));
    ok(cudaDeviceSynchronize());
    const std::vector<std::uint16_t> expanded = d_expanded.host();
    for (std::int64_t r = 0; r < p.m; ++r) {
      for (std::int64_t c = 0; c < expand.base.ldw; ++c) {
        const float expected = c < p.k ? value_of(bits_of(dense.view.data<float>()[r * p.k + c], bf16), bf16) : 0.0F;
        ASSERT_EQ(value_of(expanded[static_cast<std::size_t>(r * expand.base.ldw + c)], bf16), expected) << "row " << r << ", column " << c;
      }
    }
  }

  const Seen s = seen(x, p, product, bf16);
  std::vector<double> sums(static_cast<std::size_t>(p.n * p.m)), norms(sums.size());
  for (std::int64_t n = 0; n < p.n; ++n) {
    for (std::int64_t r = 0; r < p.m; ++r) {
      double sum = 0, norm = 0;
      for (std::int64_t c = 0; c < p.k; ++c) {
        const double term = static_cast<double>(dense.view.data<float>()[r * p.k + c]) * s.x[static_cast<std::size_t>(n * p.k + c)];
        sum += term;
        norm += std::abs(term);
      }
      sums[static_cast<std::size_t>(n * p.m + r)] = sum;
      norms[static_cast<std::size_t>(n * p.m + r)] = norm;
    }
  }

  // fp32 out, no epilogue: the error of fp32 accumulation (k eps |w||x|; tensor cores truncate, hence 4) and of the scales, once each. Of
  // e4m3 by e4m3, but for small whole numbers, four products make 128 columns, each of which loses what is below 2^-13 of its largest term,
  // of 33.
  const double lost = product == ByteProduct::e4m3_e4m3 && !c.is_whole ? 4 * 33 * std::ldexp(1.0, -13) : 0;
  const DeviceArray<float> d_out(sums.size());
  b.out = d_out.get();
  b.out_type = SpmmOut::f32;
  ok(launch_spmm_bytes(params, plan, bf16, nullptr));
  ok(cudaDeviceSynchronize());
  const std::vector<float> out = d_out.host();
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double bound = (4 * std::ldexp(1.0, -24) * (std::sqrt(static_cast<double>(p.k)) + 12) + lost) * norms[i] + 1e-30;
    ASSERT_LE(std::abs(out[i] - sums[i]), bound)
        << plan.config.to_string() << " at n " << static_cast<std::int64_t>(i) / p.m << ", row " << static_cast<std::int64_t>(i) % p.m;
  }
  // The same bits again, and the tickets are back at zero.
  const DeviceArray<float> d_again(sums.size());
  b.out = d_again.get();
  ok(launch_spmm_bytes(params, plan, bf16, nullptr));
  ok(cudaDeviceSynchronize());
  const std::vector<float> again = d_again.host();
  EXPECT_EQ(std::memcmp(out.data(), again.data(), out.size() * sizeof(float)), 0);
  for (const std::uint32_t t : d_tickets.host()) EXPECT_EQ(t, 0U);

  // Half out with bias, multiplier and residual: one rounding of the fp32 result.
  const DeviceArray<std::uint16_t> d_half(sums.size());
  SpmmBytesParams q = params;
  q.base.out = d_half.get();
  q.base.out_type = SpmmOut::same;
  q.base.bias = d_bias.get();
  q.base.multiplier = d_multiplier.get();
  q.base.residual = d_residual.get();
  q.base.activation = SpmmActivation::relu;
  ok(launch_spmm_bytes(q, plan, bf16, nullptr));
  ok(cudaDeviceSynchronize());
  const std::vector<std::uint16_t> half = d_half.host();
  for (std::size_t i = 0; i < half.size(); ++i) {
    const float expected =
        std::max(out[i] + value_of(bias[i % static_cast<std::size_t>(p.m)], bf16), 0.0F) * value_of(multiplier[i], bf16) +
        value_of(residual[i], bf16);
    const float bound = (bf16 ? 0x1p-8F : 0x1p-11F) * std::abs(expected) + 2e-5F;
    if (std::abs(expected) < 60000.0F) {
      ASSERT_NEAR(value_of(half[i], bf16), expected, bound) << i;
    }
  }

  // A token with an infinity spoils its own row only.
  x[0] = bits_of(INFINITY, bf16);
  const DeviceArray<std::uint16_t> d_spoilt(x);
  b.x = d_spoilt.get();
  b.out = d_again.get();
  ok(launch_spmm_bytes(params, plan, bf16, nullptr));
  ok(cudaDeviceSynchronize());
  const std::vector<float> spoilt = d_again.host();
  bool any_finite = false;
  for (std::size_t i = 0; i < static_cast<std::size_t>(p.m); ++i) {
    const bool meets = dense.view.data<float>()[static_cast<std::int64_t>(i) * p.k] != 0;  // infinity times zero may be left out
    any_finite = any_finite || (meets && std::isfinite(spoilt[i]));
  }
  EXPECT_FALSE(any_finite);
  for (std::size_t i = static_cast<std::size_t>(p.m); i < spoilt.size(); ++i) EXPECT_EQ(spoilt[i], out[i]);
}

const auto kProblems =
    ::testing::Values(Problem{1, 1, 1, 1.0}, Problem{31, 63, 2, 0.5}, Problem{32, 64, 8, 0.4}, Problem{33, 65, 9, 0.4},
                      Problem{127, 1009, 5, 0.3}, Problem{509, 512, 16, 0.5}, Problem{256, 512, 8, 1.0}, Problem{256, 512, 8, 0.0},
                      Problem{1024, 4096, 1, 0.4}, Problem{192, 640, 33, 0.1}, Problem{9000, 200, 8, 0.5}, Problem{9001, 200, 12, 1.0},
                      Problem{257, 1031, 40, 0.5}, Problem{300, 20000, 4, 0.5});

INSTANTIATE_TEST_SUITE_P(Table, SpmmBytesOnGpu,
                         ::testing::Combine(::testing::Values(Case{ByteProduct::e4m3_f16, {}}, Case{ByteProduct::i8_f16, {}},
                                                              Case{ByteProduct::i8_i8, {}}),
                                            ::testing::Bool(), ::testing::Values(ByteDecoding::table), kProblems));
INSTANTIATE_TEST_SUITE_P(Arithmetic, SpmmBytesOnGpu,
                         ::testing::Combine(::testing::Values(Case{ByteProduct::e4m3_f16, {}}, Case{ByteProduct::i8_i8, {}}),
                                            ::testing::Values(false), ::testing::Values(ByteDecoding::arithmetic),
                                            ::testing::Values(Problem{33, 65, 9, 0.4}, Problem{256, 512, 8, 1.0},
                                                              Problem{1024, 4096, 1, 0.4}, Problem{9001, 200, 12, 0.5})));

// By wgmma, for many tokens: many rows a block, and many blocks a row.
constexpr SpmmShape kTwoTeams{SpmmKernel::warp_specialized, 8, 2}, kThreeGroups{SpmmKernel::warp_specialized, 12, 1},
    kFourGroups{SpmmKernel::warp_specialized, 16, 1}, kTwoGroups{SpmmKernel::warp_specialized, 8, 1};
const auto kByWgmma = ::testing::Values(Case{ByteProduct::e4m3_e4m3, kTwoTeams, true}, Case{ByteProduct::e4m3_e4m3, kThreeGroups, true},
                                        Case{ByteProduct::e4m3_e4m3, kFourGroups, true}, Case{ByteProduct::e4m3_e4m3, kTwoGroups, true},
                                        Case{ByteProduct::e4m3_e4m3, kThreeGroups}, Case{ByteProduct::e4m3_e4m3, kTwoGroups},
                                        Case{ByteProduct::i8_i8, kTwoTeams}, Case{ByteProduct::i8_i8, kThreeGroups},
                                        Case{ByteProduct::i8_i8, kFourGroups}, Case{ByteProduct::i8_i8, kTwoGroups});
INSTANTIATE_TEST_SUITE_P(WgmmaTable, SpmmBytesOnGpu,
                         ::testing::Combine(kByWgmma, ::testing::Bool(), ::testing::Values(ByteDecoding::table),
                                            ::testing::Values(Problem{1, 1, 1, 1.0}, Problem{33, 65, 9, 0.4}, Problem{509, 1009, 61, 0.3},
                                                              Problem{256, 512, 64, 1.0}, Problem{256, 512, 64, 0.0},
                                                              Problem{512, 4096, 100, 0.4}, Problem{9001, 200, 33, 0.5},
                                                              Problem{257, 1031, 190, 0.5}, Problem{100, 20000, 64, 0.5})));
INSTANTIATE_TEST_SUITE_P(WgmmaArithmetic, SpmmBytesOnGpu,
                         ::testing::Combine(kByWgmma, ::testing::Values(false), ::testing::Values(ByteDecoding::arithmetic),
                                            ::testing::Values(Problem{33, 65, 9, 0.4}, Problem{256, 512, 64, 1.0},
                                                              Problem{509, 1009, 100, 0.3}, Problem{100, 20000, 64, 0.5})));

}  // namespace
}  // namespace gossamer
