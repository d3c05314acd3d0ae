#include "model/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace gossamer {
namespace {

constexpr std::int64_t kHeadDim = 8;
constexpr std::int64_t kPositions = 64;

void expect_frequencies(const RopeConfig& rope, const std::vector<float>& expected) {
  const std::vector<float> actual = rope_inverse_frequencies(rope, kHeadDim, kPositions);
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 2e-7F * expected[i]) << i;
}

// Expected values: transformers 5.17's ROPE_INIT_FUNCTIONS with theta 100, head_dim 8, in float32.
TEST(Rope, FrequenciesAreThoseOfHuggingFace) {
  expect_frequencies({.theta = 100.0}, {1.0F, 0.316227764F, 0.100000001F, 0.0316227786F});
  expect_frequencies({.theta = 100.0, .scaling = RopeScaling::linear, .factor = 4.0}, {0.25F, 0.079056941F, 0.0250000004F, 0.00790569466F});
  expect_frequencies({.theta = 100.0,
                      .scaling = RopeScaling::llama3,
                      .factor = 8.0,
                      .low_freq_factor = 1.0,
                      .high_freq_factor = 4.0,
                      .original_max_positions = 40},
                     {1.0F, 0.132976145F, 0.0125000002F, 0.00395284733F});
  expect_frequencies({.theta = 100.0, .scaling = RopeScaling::yarn, .factor = 8.0, .original_max_positions = 32, .beta_fast = 3.0},
                     {1.0F, 0.177878112F, 0.0125000002F, 0.00395284733F});
  expect_frequencies(
      {.theta = 100.0, .scaling = RopeScaling::yarn, .factor = 8.0, .original_max_positions = 32, .beta_fast = 3.0, .truncate = false},
      {1.0F, 0.159557685F, 0.0125000002F, 0.00395284733F});
}

// No sequence here is longer than the model's context, and up to it dynamic scaling leaves the base alone.
TEST(Rope, DynamicScalingChangesNothingWithinTheContext) {
  const RopeConfig plain{.theta = 100.0};
  const RopeConfig dynamic{.theta = 100.0, .scaling = RopeScaling::dynamic_ntk, .factor = 4.0};
  EXPECT_EQ(rope_inverse_frequencies(plain, kHeadDim, kPositions), rope_inverse_frequencies(dynamic, kHeadDim, kPositions));
}

TEST(Rope, TablesHoldCosAndSinTimesTheFactor) {
  HostAllocator host;
  ThreadPool pool(2);
  const std::vector<float> frequencies{1.0F, 0.1F};
  const OwnedTensor cos(host, DType::f32, {100, 2});
  const OwnedTensor sin(host, DType::f32, {100, 2});
  fill_rope_tables(cos.view, sin.view, frequencies, 1.5, pool);
  for (const std::int64_t position : {0, 1, 63, 64, 99}) {
    for (std::size_t i = 0; i < 2; ++i) {
      const double angle = static_cast<double>(frequencies[i] * static_cast<float>(position));
      EXPECT_NEAR(cos.view.row<float>(position)[i], 1.5 * std::cos(angle), 3e-7) << position;
      EXPECT_NEAR(sin.view.row<float>(position)[i], 1.5 * std::sin(angle), 3e-7) << position;
    }
  }
}

}  // namespace
}  // namespace gossamer
