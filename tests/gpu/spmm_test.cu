// The decode SpMM on a GPU against fp64: formats, dtypes, odd sizes, skewed and extreme densities, epilogues, poisoned outputs, bitwise
// repeats.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <vector>

#include "launch/expand.h"
#include "launch/spmm.h"
#include "sparse/tiled_weight.h"

namespace gossamer {
namespace {

void ok(cudaError_t error) { ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error); }

template <typename T>
class OnDevice {
 public:
  explicit OnDevice(std::size_t count, int fill = 0xff) : count_(count) {
    ok(cudaMalloc(&data_, std::max<std::size_t>(1, count) * sizeof(T)));
    ok(cudaMemset(data_, fill, count * sizeof(T)));
  }
  explicit OnDevice(const std::vector<T>& host) : OnDevice(host.size()) {
    ok(cudaMemcpy(data_, host.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  OnDevice(const OnDevice&) = delete;
  ~OnDevice() { cudaFree(data_); }
  T* get() const { return static_cast<T*>(data_); }
  std::vector<T> host() const {
    std::vector<T> v(count_);
    ok(cudaMemcpy(v.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }

 private:
  void* data_ = nullptr;
  std::size_t count_;
};

std::uint16_t bits_of(float v, bool bf16) { return bf16 ? to_bfloat16(v).bits : to_float16(v).bits; }
float value_of(std::uint16_t bits, bool bf16) { return bf16 ? to_float(BFloat16{bits}) : to_float(Float16{bits}); }

enum class Pattern { iid, empty, full, skewed_rows, dense_spot };

struct Problem {
  std::int64_t m, k, n;
  double density;
  Pattern pattern;
  std::optional<SpmmShape> shape = std::nullopt;  // instead of the planner's choice
};

class SpmmOnGpu : public ::testing::TestWithParam<std::tuple<TileFormat, bool, Problem>> {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "no NVIDIA GPU here";
  }
};

std::vector<float> random_dense(const Problem& p, bool bf16, std::mt19937& random) {
  std::uniform_real_distribution<float> value(-1, 1);
  std::uniform_real_distribution<double> chance(0, 1);
  std::vector<float> w(static_cast<std::size_t>(p.m * p.k));
  for (std::int64_t r = 0; r < p.m; ++r) {
    for (std::int64_t c = 0; c < p.k; ++c) {
      double density = p.density;
      if (p.pattern == Pattern::skewed_rows) density = r % 7 == 0 ? 1.0 : r % 5 == 0 ? 0.0 : p.density;
      if (p.pattern == Pattern::dense_spot) density = r < 40 && c < 100 ? 1.0 : p.density;
      if (p.pattern == Pattern::empty) density = 0;
      if (p.pattern == Pattern::full) density = 1;
      const bool keep = chance(random) < density;
      w[static_cast<std::size_t>(r * p.k + c)] = keep ? value_of(bits_of(value(random), bf16), bf16) : 0.0F;
    }
  }
  return w;
}

float activate(float v, SpmmActivation activation) {
  switch (activation) {
    case SpmmActivation::none: return v;
    case SpmmActivation::relu: return std::max(v, 0.0F);
    case SpmmActivation::gelu: return 0.5F * v * (1 + std::erf(v * 0.70710678F));
    case SpmmActivation::gelu_tanh: return 0.5F * v * (1 + std::tanh(0.79788456F * (v + 0.044715F * v * v * v)));
    case SpmmActivation::silu: return v / (1 + std::exp(-v));
  }
  return v;
}

TEST_P(SpmmOnGpu, MatchesDoublePrecision) {
  const auto [format, bf16, p] = GetParam();
  std::mt19937 random(static_cast<unsigned>(p.m * 31 + p.k * 7 + p.n));
  std::uniform_real_distribution<float> value(-1, 1);
  const std::vector<float> dense = random_dense(p, bf16, random);
  HostAllocator allocator;
  ThreadPool pool(2);
  OwnedTensor halves(allocator, bf16 ? DType::bf16 : DType::f16, {p.m, p.k});
  for (std::size_t i = 0; i < dense.size(); ++i) static_cast<std::uint16_t*>(halves.view.raw())[i] = bits_of(dense[i], bf16);
  const OwnedSparseWeight weight = sparse_from_dense(halves.view, allocator);
  const OwnedTiledWeight packed = pack_tiles(weight.view, format, allocator, pool);
  const auto random_halves = [&](std::int64_t count) {
    std::vector<std::uint16_t> v(static_cast<std::size_t>(count));
    for (auto& h : v) h = bits_of(value(random), bf16);
    return v;
  };
  const std::vector<std::uint16_t> x = random_halves(p.n * p.k), bias = random_halves(p.m), residual = random_halves(p.n * p.m),
                                   multiplier = random_halves(p.n * p.m);

  DeviceLimits limits;
  cudaDeviceProp props;
  ok(cudaGetDeviceProperties(&props, 0));
  limits.num_sms = props.multiProcessorCount;
  limits.shared_bytes_per_block = static_cast<std::int64_t>(props.sharedMemPerBlockOptin);
  limits.shared_bytes_per_sm = static_cast<std::int64_t>(props.sharedMemPerMultiprocessor);
  limits.dependent_launch = props.major >= 9;
  limits.wgmma = props.major == 9;
  const bool aligned = p.k % 8 == 0;
  const SpmmProblem problem{format, p.m, p.k, p.n, packed.view.max_record_bytes, aligned, p.shape};
  if (p.shape && !limits.wgmma) GTEST_SKIP() << "no wgmma here";
  const SpmmConfig config = plan_spmm(problem, limits);

  const std::vector<std::uint8_t> bytes(packed.view.data.data<std::uint8_t>(),
                                        packed.view.data.data<std::uint8_t>() + packed.view.data.nbytes());
  const auto* first = packed.view.offsets.data<std::int32_t>();
  const std::vector<std::int32_t> offsets(first, first + packed.view.num_records() + 1);
  const OnDevice<std::uint8_t> d_data(bytes);
  const OnDevice<std::int32_t> d_offsets(offsets);
  const OnDevice<std::uint16_t> d_x(x), d_bias(bias), d_residual(residual), d_multiplier(multiplier);
  const OnDevice<float> d_partials(static_cast<std::size_t>(config.partial_floats));
  const OnDevice<std::uint32_t> d_tickets(static_cast<std::size_t>(config.tickets), 0);
  const OnDevice<std::uint8_t> d_packed_x(static_cast<std::size_t>(config.packed_x_bytes));

  SpmmParams params;
  params.data = d_data.get();
  params.offsets = reinterpret_cast<const std::uint32_t*>(d_offsets.get());
  params.x = d_x.get();
  params.partials = d_partials.get();
  params.tickets = d_tickets.get();
  params.packed_x = d_packed_x.get();
  params.ldx = p.k;
  params.ldo = params.ldr = p.m;
  params.m = static_cast<std::int32_t>(p.m);
  params.k = static_cast<std::int32_t>(p.k);
  params.n = static_cast<std::int32_t>(p.n);
  params.row_blocks = static_cast<std::int32_t>(packed.view.row_blocks());
  params.records = static_cast<std::int32_t>(packed.view.records_per_row_block());
  params.slot_bytes = static_cast<std::uint32_t>(config.slot_bytes);
  params.x_is_aligned = aligned;

  // The expansion is exact, and zero where there is nothing.
  ExpandParams expand;
  expand.data = params.data;
  expand.offsets = params.offsets;
  expand.ldw = (p.k + 7) / 8 * 8;
  const OnDevice<std::uint16_t> d_expanded(static_cast<std::size_t>(p.m * expand.ldw));
  expand.out = d_expanded.get();
  expand.m = params.m;
  expand.row_blocks = params.row_blocks;
  expand.records = params.records;
  expand.slot_bytes = params.slot_bytes;
  ok(launch_expand(expand, format, limits.num_sms, nullptr));
  ok(cudaDeviceSynchronize());
  const std::vector<std::uint16_t> expanded = d_expanded.host();
  for (std::int64_t r = 0; r < p.m; ++r) {
    for (std::int64_t c = 0; c < expand.ldw; ++c) {
      const std::uint16_t expected = c < p.k ? bits_of(dense[static_cast<std::size_t>(r * p.k + c)], bf16) : 0;
      ASSERT_EQ(expanded[static_cast<std::size_t>(r * expand.ldw + c)], expected) << "row " << r << ", column " << c;
    }
  }

  std::vector<double> sums(static_cast<std::size_t>(p.n * p.m)), norms(sums.size());
  for (std::int64_t n = 0; n < p.n; ++n) {
    for (std::int64_t r = 0; r < p.m; ++r) {
      double sum = 0, norm = 0;
      for (std::int64_t c = 0; c < p.k; ++c) {
        const double product =
            static_cast<double>(dense[static_cast<std::size_t>(r * p.k + c)]) * value_of(x[static_cast<std::size_t>(n * p.k + c)], bf16);
        sum += product;
        norm += std::abs(product);
      }
      sums[static_cast<std::size_t>(n * p.m + r)] = sum;
      norms[static_cast<std::size_t>(n * p.m + r)] = norm;
    }
  }

  // fp32 out, no epilogue: the error of fp32 accumulation alone (k eps |w||x|; tensor cores truncate, hence 4).
  const OnDevice<float> d_out(sums.size());
  params.out = d_out.get();
  params.out_type = SpmmOut::f32;
  ok(launch_spmm(params, config, format, bf16, nullptr));
  ok(cudaDeviceSynchronize());
  const std::vector<float> out = d_out.host();
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double bound = 4 * std::ldexp(1.0, -24) * (std::sqrt(static_cast<double>(p.k)) + 8) * norms[i] + 1e-30;
    ASSERT_LE(std::abs(out[i] - sums[i]), bound)
        << config.to_string() << " at n " << static_cast<std::int64_t>(i) / p.m << ", row " << static_cast<std::int64_t>(i) % p.m;
  }
  // The same bits again, and the tickets are back at zero.
  const OnDevice<float> d_again(sums.size());
  params.out = d_again.get();
  ok(launch_spmm(params, config, format, bf16, nullptr));
  ok(cudaDeviceSynchronize());
  const std::vector<float> again = d_again.host();
  EXPECT_EQ(std::memcmp(out.data(), again.data(), out.size() * sizeof(float)), 0);
  for (const std::uint32_t t : d_tickets.host()) EXPECT_EQ(t, 0U);

  // Half out with bias, activation and residual: one rounding of the fp32 result.
  for (const SpmmActivation activation :
       {SpmmActivation::none, SpmmActivation::relu, SpmmActivation::gelu, SpmmActivation::gelu_tanh, SpmmActivation::silu}) {
    const OnDevice<std::uint16_t> d_half(sums.size());
    SpmmParams q = params;
    q.out = d_half.get();
    q.out_type = SpmmOut::same;
    q.bias = d_bias.get();
    q.multiplier = d_multiplier.get();
    q.residual = d_residual.get();
    q.activation = activation;
    ok(launch_spmm(q, config, format, bf16, nullptr));
    ok(cudaDeviceSynchronize());
    const std::vector<std::uint16_t> half = d_half.host();
    for (std::size_t i = 0; i < half.size(); ++i) {
      const float expected =
          activate(out[i] + value_of(bias[i % static_cast<std::size_t>(p.m)], bf16), activation) * value_of(multiplier[i], bf16) +
          value_of(residual[i], bf16);
      const float bound = (bf16 ? 0x1p-8F : 0x1p-11F) * std::abs(expected) + 2e-5F;
      ASSERT_NEAR(value_of(half[i], bf16), expected, bound) << "activation " << static_cast<int>(activation) << " at " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, SpmmOnGpu,
    ::testing::Combine(::testing::Values(TileFormat::bitmap, TileFormat::tiled_csl, TileFormat::two_four), ::testing::Bool(),
                       ::testing::Values(Problem{1, 1, 1, 1.0, Pattern::iid}, Problem{31, 63, 2, 0.5, Pattern::iid},
                                         Problem{32, 64, 8, 0.4, Pattern::iid}, Problem{33, 65, 9, 0.4, Pattern::iid},
                                         Problem{127, 1009, 5, 0.3, Pattern::iid}, Problem{509, 512, 16, 0.5, Pattern::iid},
                                         Problem{256, 512, 8, 0.5, Pattern::full}, Problem{256, 512, 8, 0.5, Pattern::empty},
                                         Problem{300, 1000, 7, 0.2, Pattern::skewed_rows}, Problem{600, 2048, 3, 0.3, Pattern::dense_spot},
                                         Problem{1024, 4096, 1, 0.4, Pattern::iid}, Problem{192, 640, 33, 0.1, Pattern::iid},
                                         Problem{128, 256, 17, 0.5, Pattern::skewed_rows}, Problem{9000, 200, 8, 0.5, Pattern::iid},
                                         Problem{9001, 200, 12, 0.4, Pattern::dense_spot}, Problem{257, 1031, 40, 0.5, Pattern::iid},
                                         Problem{9000, 264, 61, 0.3, Pattern::skewed_rows}, Problem{320, 2048, 128, 0.5, Pattern::iid},
                                         Problem{95, 72, 130, 0.2, Pattern::dense_spot})));

constexpr SpmmShape kTwoTeams{SpmmKernel::warp_specialized, 8, 2};

INSTANTIATE_TEST_SUITE_P(WarpSpecialized, SpmmOnGpu,
                         ::testing::Combine(::testing::Values(TileFormat::bitmap), ::testing::Bool(),
                                            ::testing::Values(Problem{127, 1009, 41, 0.3, Pattern::iid, kTwoTeams},
                                                              Problem{257, 1031, 40, 0.5, Pattern::iid, kTwoTeams},
                                                              Problem{9000, 264, 61, 0.3, Pattern::skewed_rows, kTwoTeams},
                                                              Problem{300, 1000, 64, 0.1, Pattern::skewed_rows, kTwoTeams},
                                                              Problem{600, 512, 64, 0.5, Pattern::empty, kTwoTeams},
                                                              Problem{40000, 300, 33, 0.4, Pattern::iid, kTwoTeams},
                                                              Problem{9216, 4096, 64, 0.4, Pattern::iid})));  // the planner's own choice

}  // namespace
}  // namespace gossamer
