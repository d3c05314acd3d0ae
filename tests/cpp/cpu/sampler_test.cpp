// What the CPU sampler promises beyond Ops::sample, which support/sample_cases.h tests.
#include "cpu/sampler.h"

#include <gtest/gtest.h>

#include "support/test_tensor.h"

namespace gossamer {
namespace {

using gossamer::testing::normal;
using gossamer::testing::Random;

TEST(Sampler, LeavesTheLogitsAsTheyWere) {
  Random random(1);
  const std::vector<float> before = normal(random, 1000, 3.0F);
  for (const float temperature : {0.0F, 0.8F}) {
    std::vector<float> logits = before;
    const SampleRow row{.temperature = temperature, .top_p = 0.9F, .repetition_penalty = 1.3F, .num_logprobs = 2};
    const std::vector<TokenAdjustment> adjustments{{0, 3, 1, true, 0.7F}, {0, 999, 0, false, -std::numeric_limits<float>::infinity()}};
    std::int32_t token = 0, rank = 0, top_tokens[2];
    float logprob = 0, top_logprobs[2];
    Sampler().sample(Tensor(logits.data(), DType::f32, {1, 1000}), {{&row, 1}, adjustments},
                     {{&token, 1}, {&logprob, 1}, {&rank, 1}, top_tokens, top_logprobs, 2}, 0, 1);
    EXPECT_EQ(logits, before);
  }
}

TEST(Sampler, RangesOfRowsGiveWhatTheWholeGives) {
  Random random(2);
  constexpr std::int64_t kRows = 9, kVocab = 321;
  std::vector<float> logits = normal(random, kRows * kVocab, 2.0F);
  const Tensor tensor(logits.data(), DType::f32, {kRows, kVocab});
  std::vector<SampleRow> rows(kRows);
  std::vector<TokenAdjustment> adjustments;
  for (std::int32_t r = 0; r < kRows; ++r) {
    rows[static_cast<std::size_t>(r)] = {.top_p = 0.95F, .frequency_penalty = 2.0F, .seed = random.next()};
    for (std::int32_t token = 0; r != 4 && token < kVocab; token += 2) adjustments.push_back({r, token, 3, true, 0.0F});
  }
  const auto run = [&](std::int64_t chunk) {
    std::vector<std::int32_t> tokens(kRows, -7), ranks(kRows);
    std::vector<float> logprobs(kRows);
    Sampler sampler;
    for (std::int64_t begin = 0; begin < kRows; begin += chunk)
      sampler.sample(tensor, {rows, adjustments}, {tokens, logprobs, ranks, {}, {}, 0}, begin, std::min(begin + chunk, kRows));
    return tokens;
  };
  const std::vector<std::int32_t> whole = run(kRows);
  for (std::int64_t chunk = 1; chunk < kRows; ++chunk) EXPECT_EQ(run(chunk), whole) << "in chunks of " << chunk;
}

}  // namespace
}  // namespace gossamer
