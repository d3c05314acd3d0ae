// Weights of 8-bit values on the CUDA backend: widened at load, kept 8 bits wide, and with activations of 8 bits.
#include <gtest/gtest.h>

#include <memory>
#include <tuple>

#include "cuda_backend.h"
#include "support/byte_weight_cases.h"

namespace gossamer {
namespace {

using namespace gossamer::testing;

class CudaBytes : public ::testing::TestWithParam<std::tuple<DType, EightBit>> {
 protected:
  void SetUp() override {
    if (const std::string reason = why_no_gpu(); !reason.empty()) GTEST_SKIP() << reason;
    BackendOptions options;
    options.eight_bit = std::get<1>(GetParam());
    ops_ = load_backend("cuda").create_ops(0, std::get<0>(GetParam()), options);
  }
  std::unique_ptr<Ops> ops_;
};

TEST_P(CudaBytes, MatchTheFormula) { byte_weight_cases(*ops_, std::get<1>(GetParam()) == EightBit::activations); }

TEST_P(CudaBytes, RandomOnesAreTheirFormulas) {
  if (std::get<1>(GetParam()) == EightBit::activations) GTEST_SKIP() << "a token's scale is rounded";
  random_byte_weight_cases(*ops_);
}

TEST_P(CudaBytes, TakeAsMuchMemoryAsTheySay) {
  HostAllocator host;
  constexpr std::int64_t kRows = 512, kCols = 1024;
  OwnedScaledMatrix matrix(host, DType::i8, kRows, kCols, kCols);
  std::fill_n(static_cast<std::int8_t*>(matrix.view.values.raw()), kRows * kCols, std::int8_t{3});
  std::fill_n(matrix.view.scales.data<float>(), kRows, 0.5F);
  const std::int64_t before = ops_->allocator().live_bytes();
  const std::unique_ptr<PackedWeight> weight = ops_->pack(matrix.view);
  const std::int64_t live = ops_->allocator().live_bytes() - before;
  EXPECT_LE(std::abs(live - weight->nbytes()), 4096);
  const double per_value = static_cast<double>(weight->nbytes()) / (kRows * kCols);
  EXPECT_NEAR(per_value, std::get<1>(GetParam()) == EightBit::off ? 2.0 : 1.13, 0.01);
}

std::string name_of_parameters(const ::testing::TestParamInfo<std::tuple<DType, EightBit>>& info) {
  static constexpr const char* kNames[] = {"off", "weights", "activations"};
  return std::string(name_of(std::get<0>(info.param))) + "_" + kNames[static_cast<int>(std::get<1>(info.param))];
}

INSTANTIATE_TEST_SUITE_P(All, CudaBytes,
                         ::testing::Combine(::testing::Values(DType::f16, DType::bf16),
                                            ::testing::Values(EightBit::off, EightBit::weights, EightBit::activations)),
                         name_of_parameters);

}  // namespace
}  // namespace gossamer
