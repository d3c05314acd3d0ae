// Sampling allocates nothing once it has seen a vocabulary: the global operator new counts.
#include <gtest/gtest.h>

#include "cpu/sampler.h"
#include "support/counting_new.h"
#include "support/test_tensor.h"

namespace gossamer {
namespace {

TEST(SamplerAllocation, SteadyStateAllocatesNothing) {
  testing::Random random(3);
  constexpr std::int64_t kVocab = 5000;
  std::vector<float> logits = testing::normal(random, kVocab, 2.0F);
  const Tensor tensor(logits.data(), DType::f32, {1, kVocab});
  std::vector<TokenAdjustment> adjustments;
  for (std::int32_t token = 0; token < kVocab; token += 3) adjustments.push_back({0, token, 1, true, 0.5F});
  std::int32_t token = 0, rank = 0, top_tokens[5];
  float logprob = 0, top_logprobs[5];
  const SampleResult result{{&token, 1}, {&logprob, 1}, {&rank, 1}, top_tokens, top_logprobs, 5};
  Sampler sampler;
  const auto draw = [&](const SampleRow& row, bool adjust) {
    sampler.sample(tensor, {{&row, 1}, adjust ? std::span<const TokenAdjustment>(adjustments) : std::span<const TokenAdjustment>()}, result,
                   0, 1);
  };
  draw({.top_p = 0.5F}, false);
  testing::FaultPoint allocations;
  const testing::NewHook hook(allocations);
  for (const bool adjust : {false, true}) {
    for (const SampleRow& row :
         {SampleRow{.temperature = 0.0F}, SampleRow{}, SampleRow{.top_k = 10, .num_logprobs = 5}, SampleRow{.top_k = 4000},
          SampleRow{.temperature = 1e6F, .top_p = 0.99F}, SampleRow{.min_p = 0.01F}, SampleRow{.target = 3}})
      draw(row, adjust);
  }
  EXPECT_EQ(allocations.calls(), 0);
  ::operator delete(::operator new(1));  // the counter counts
  EXPECT_EQ(allocations.calls(), 1);
}

}  // namespace
}  // namespace gossamer
