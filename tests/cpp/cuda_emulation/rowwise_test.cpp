// Row-wise kernels that are candidates, run on the host.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "emulation.h"
// after it
#include "kernels/rowwise.cuh"
#include "support/random.h"

namespace gossamer::cuda {
namespace {

using gossamer::testing::Random;

// Rows of every length that a block can hold, in two strided axes.
template <bool kLayerNorm>
void check_norm(int size, unsigned threads) {
  Random random(static_cast<unsigned>(size));
  constexpr int kOuter = 2, kInner = 3, kPad = 8;
  const int stride = size + kPad;
  std::vector<__half> x(static_cast<std::size_t>(kOuter * kInner * stride)), out(x.size(), __float2half(NAN)), weight, bias;
  for (__half& value : x) value = __float2half(4.0F * random.value() + 1.0F);
  for (int i = 0; i < size; ++i) {
    weight.push_back(__float2half(random.value()));
    bias.push_back(__float2half(random.value()));
  }
  NormParams p;
  p.out = out.data();
  p.x = x.data();
  p.weight = weight.data();
  p.bias = kLayerNorm ? bias.data() : nullptr;
  p.vectors = kOuter * kInner;
  p.inner = kInner;
  p.size = size;
  p.x_outer = p.out_outer = kInner * stride;
  p.x_inner = p.out_inner = stride;
  p.eps = 1e-3F;
  emulation::launch({kOuter * kInner, 1, 1}, threads, [&] { norm_vector_kernel<__half, kLayerNorm, 2>(p); });
  for (int row = 0; row < kOuter * kInner; ++row) {
    const __half* from = x.data() + row * stride;
    double mean = 0, squares = 0;
    for (int i = 0; i < size; ++i) mean += kLayerNorm ? double{to_float(from[i])} / size : 0;
    for (int i = 0; i < size; ++i) squares += std::pow(to_float(from[i]) - mean, 2) / size;
    for (int i = 0; i < stride; ++i) {
      const float actual = to_float(out[static_cast<std::size_t>(row * stride + i)]);
      if (i >= size) {
        ASSERT_TRUE(std::isnan(actual)) << "the gap after row " << row << " was written";
        continue;
      }
      const auto e = static_cast<std::size_t>(i);
      double expected = (to_float(from[i]) - mean) / std::sqrt(squares + double{p.eps}) * to_float(weight[e]);
      if (kLayerNorm) expected += to_float(bias[e]);
      ASSERT_NEAR(actual, expected, 2e-3) << "size " << size << ", row " << row << " at " << i;
    }
  }
}

TEST(NormKernel, IsTheNorm) {
  for (const auto& [size, threads] : std::vector<std::pair<int, unsigned>>{{8, 32}, {264, 32}, {512, 32}, {1000, 64}, {9216, 576}}) {
    check_norm<false>(size, threads);
    check_norm<true>(size, threads);
  }
}

TEST(TakeKernel, ReplacesWhatHasARow) {
  std::vector<std::int32_t> ids(300, 7), rows;
  const std::vector<std::int32_t> tokens{100, 101, 102};
  for (int i = 0; i < 300; ++i) rows.push_back(i % 4 - 1);
  TakeParams p;
  p.ids = ids.data();
  p.rows = rows.data();
  p.tokens = tokens.data();
  p.n = 300;
  emulation::launch({3, 1, 1}, 128, [&] { take_kernel(p); });
  for (int i = 0; i < 300; ++i) EXPECT_EQ(ids[static_cast<std::size_t>(i)], i % 4 == 0 ? 7 : 99 + i % 4);
}

}  // namespace
}  // namespace gossamer::cuda
