// The vectorised backend against the oracle, for every instruction set of this machine and several thread counts.
#include "cpu/cpu_ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "support/ops_cases.h"

namespace gossamer {
namespace {

using namespace gossamer::testing;

std::vector<OpsCase> every_case() {
  std::vector<OpsCase> cases = all_ops_cases();
  for (const OpsCase& c : bitwise_ops_cases()) cases.push_back(c);
  return cases;
}

class CpuOpsCases : public ::testing::TestWithParam<std::tuple<CpuIsa, int, OpsCase>> {};

TEST_P(CpuOpsCases, AgreesWithTheOracle) {
  const auto& [isa, threads, ops_case] = GetParam();
  HostAllocator allocator;
  {
    const std::unique_ptr<Ops> ops = make_cpu_ops({.num_threads = threads, .isa = isa}, &allocator);
    ops_case.run(*ops);
  }
  EXPECT_EQ(allocator.live_blocks(), 0);
  EXPECT_EQ(allocator.live_bytes(), 0);
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, CpuOpsCases,
                         ::testing::Combine(::testing::ValuesIn(available_cpu_isas()), ::testing::Values(1, 3),
                                            ::testing::ValuesIn(every_case())),
                         [](const auto& info) {
                           std::string isa(name_of(std::get<0>(info.param)));
                           std::replace(isa.begin(), isa.end(), '-', '_');
                           return isa + "_" + std::to_string(std::get<1>(info.param)) + "threads_" + std::get<2>(info.param).name;
                         });

class CpuBf16Products : public ::testing::TestWithParam<CpuIsa> {
 protected:
  std::unique_ptr<Ops> ops_ = make_cpu_ops({.num_threads = 2, .isa = GetParam(), .product_dtype = DType::bf16});
};

TEST_P(CpuBf16Products, AgreeWithExactProductsOfRoundedInputs) {
  linear_cases_of(*ops_, DType::bf16);
  linear_random_cases_of(*ops_, DType::bf16);
}

TEST_P(CpuBf16Products, RoundTheirInputsToNearest) {
  HostAllocator allocator;
  Random random(5);
  const OwnedTensor weight = random_matrix(allocator, DType::bf16, 19, 70, 1.0, random);
  const OwnedTensor x = random_matrix(allocator, DType::f32, 5, 70, 1.0, random);
  OwnedTensor rounded(allocator, DType::f32, {5, 70});
  std::transform(x.view.data<float>(), x.view.data<float>() + 5 * 70, rounded.view.data<float>(),
                 [](float value) { return round_to(DType::bf16, value); });
  OwnedTensor from_x(allocator, DType::f32, {5, 19});
  OwnedTensor from_rounded(allocator, DType::f32, {5, 19});
  const std::unique_ptr<PackedWeight> packed = ops_->pack(weight.view);
  ops_->linear(from_x.view, x.view, *packed);
  ops_->linear(from_rounded.view, rounded.view, *packed);
  EXPECT_EQ(to_floats(from_x.view), to_floats(from_rounded.view));
}

// Inputs that are whole multiples of a 16-bit scale lose nothing, whatever the instruction set. greatest: what the greatest of each token
// is.
void check_integer_inputs(Ops& ops, DType dtype, std::int64_t k, std::int64_t n, double sparsity, std::int64_t greatest) {
  constexpr std::int64_t kOutputs = 45;
  Random random(static_cast<std::uint64_t>(k + n));
  const TestWeight weight(ops, dtype, kOutputs, k, sparsity, random, dtype == DType::i4 && k > 64 ? 64 : k);
  std::vector<float> inputs;
  for (std::int64_t i = 0; i < n * k; ++i) {
    const std::int64_t integer = i % k == 0 ? greatest : random.below(2 * greatest + 1) - greatest;
    inputs.push_back(static_cast<float>(integer) * 0x1p-12F);
  }
  const TestTensor x(ops, DType::f32, {n, k}, inputs);
  const TestTensor out = TestTensor::poisoned(ops, DType::f32, {n, kOutputs});
  ops.linear(out, x, *weight.packed);
  std::vector<Bounded> expected;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < kOutputs; ++j) {
      double sum = 0, magnitude = 0;
      for (std::int64_t p = 0; p < k; ++p) {
        const double term = x.at(i, p) * weight.values[static_cast<std::size_t>(j * k + p)];
        sum += term;
        magnitude += std::abs(term);
      }
      expected.push_back({sum, storage_error(DType::f32, sum) + sum_error(k, magnitude)});
    }
  }
  expect_close(out.read(), expected, std::string(name_of(dtype)) + " k = " + std::to_string(k) + ", n = " + std::to_string(n));
}

TEST_P(CpuBf16Products, MultiplySmallWeightsBySixteenBitIntegers) {
  for (const auto& [dtype, greatest] : {std::pair{DType::i8, 32767}, {DType::i4, 32639}}) {
    for (const std::int64_t k : {7, 64, 576, 2100, 4200}) {
      for (const std::int64_t n : {1, 2, 3, 4, 7, 100}) {
        for (const double sparsity : {-1.0, 0.5, 1.0}) {
          check_integer_inputs(*ops_, dtype, k, n, sparsity, greatest);
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_P(CpuBf16Products, SpreadWhatIsNotFiniteToItsTokenOnly) {
  Random random(6);
  const TestWeight i8(*ops_, DType::i8, 20, 70, -1, random, 70);
  const TestWeight i4(*ops_, DType::i4, 20, 70, -1, random, 64);
  for (const auto& [weight, odd] : {std::pair{&i8, kNan}, {&i8, kInfinity}, {&i4, kNan}, {&i4, -kInfinity}}) {
    std::vector<float> inputs = normal(random, 4 * 70);
    inputs[70 + 13] = odd;
    for (int i = 0; i < 70; ++i) inputs[static_cast<std::size_t>(140 + i)] = i % 2 == 0 ? 0.0F : 1e-38F;
    const TestTensor x(*ops_, DType::f32, {4, 70}, inputs);
    const TestTensor out = TestTensor::poisoned(*ops_, DType::f32, {4, 20});
    ops_->linear(out, x, *weight->packed);
    const std::vector<float> values = out.read();
    for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(std::isfinite(values[i]), i / 20 != 1) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, CpuBf16Products, ::testing::ValuesIn(available_cpu_isas()), [](const auto& info) {
  std::string isa(name_of(info.param));
  std::replace(isa.begin(), isa.end(), '-', '_');
  return isa;
});

TEST(CpuBf16ProductsOption, RefusesWhatNoProductTakes) {
  EXPECT_THROW(make_cpu_ops({.num_threads = 1, .isa = {}, .product_dtype = DType::f16}), InvalidArgument);
}

TEST(CpuIsaNames, RoundTrip) {
  for (const CpuIsa isa : {CpuIsa::portable, CpuIsa::avx2, CpuIsa::avx512, CpuIsa::avx512_bf16})
    EXPECT_EQ(parse_cpu_isa(name_of(isa)), isa);
  EXPECT_EQ(name_of(CpuIsa::avx512_bf16), "avx512-bf16");
  EXPECT_FALSE(parse_cpu_isa("sse9").has_value());
}

TEST(CpuIsaNames, PortableIsAlwaysThereAndBestIsLast) {
  const std::vector<CpuIsa> isas = available_cpu_isas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.front(), CpuIsa::portable);
  EXPECT_EQ(isas.back(), best_cpu_isa());
}

TEST(CpuOps, DescribesItself) {
  EXPECT_EQ(make_cpu_ops({.num_threads = 2, .isa = CpuIsa::portable})->description(), "cpu portable, 2 threads");
  EXPECT_EQ(make_cpu_ops({.num_threads = 1, .isa = CpuIsa::portable})->description(), "cpu portable, 1 thread");
}

TEST(CpuOps, RefusesAWeightOfAnotherBackend) {
  const std::unique_ptr<Ops> ops = make_cpu_ops({.num_threads = 1, .isa = best_cpu_isa()});
  const std::unique_ptr<Ops> other = make_reference_ops();
  float w[4] = {1, 2, 3, 4};
  float x[2] = {1, 1};
  float y[2] = {};
  const std::unique_ptr<PackedWeight> packed = other->pack(Tensor(w, DType::f32, {2, 2}));
  EXPECT_THROW(ops->linear(Tensor(y, DType::f32, {1, 2}), Tensor(x, DType::f32, {1, 2}), *packed), InvalidArgument);
}

}  // namespace
}  // namespace gossamer
