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
