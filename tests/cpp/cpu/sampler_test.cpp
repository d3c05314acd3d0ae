#include "cpu/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <vector>

namespace gossamer {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(std::size_t size, unsigned seed, float spread = 3.0F) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> logits(size);
  for (float& x : logits) x = normal(rng);
  return logits;
}

// The definition, by a full sort in double: the tokens that may be drawn and their probabilities, by id.
std::vector<double> oracle_probabilities(const std::vector<float>& logits, const SampleRow& row) {
  const std::size_t size = logits.size();
  std::vector<std::size_t> order(size);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  std::vector<double> p(size, 0.0);
  const double largest = logits[order[0]];
  std::size_t kept = 0;
  double total = 0;
  for (; kept < size; ++kept) {
    const double weight = std::exp((logits[order[kept]] - largest) / row.temperature);
    if (weight < row.min_p || (row.top_k > 0 && kept >= static_cast<std::size_t>(row.top_k))) break;
    p[order[kept]] = weight;
    total += weight;
  }
  double nucleus = 0;
  for (std::size_t i = 0; i < size; ++i) {
    if (i > 0 && nucleus >= row.top_p * total && row.top_p < 1.0F) p[order[i]] = 0;
    nucleus += p[order[i]];
  }
  const double rest = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= rest;
  return p;
}

struct Drawn {
  std::int32_t token = 0;
  float logprob = 0;
  std::int32_t rank = 0;
  std::vector<std::int32_t> top_tokens;
  std::vector<float> top_logprobs;
};

Drawn sample_one(Sampler& sampler, std::vector<float> logits, const SampleRow& row, std::span<const TokenAdjustment> adjustments = {}) {
  Drawn drawn;
  const std::int32_t top = std::max(row.num_logprobs, 0);
  drawn.top_tokens.resize(static_cast<std::size_t>(top));
  drawn.top_logprobs.resize(static_cast<std::size_t>(top));
  const SampleResult result{{&drawn.token, 1}, {&drawn.logprob, 1}, {&drawn.rank, 1}, drawn.top_tokens, drawn.top_logprobs, top};
  const std::vector<float> before = logits;
  sampler.sample(Tensor(logits.data(), DType::f32, {1, static_cast<std::int64_t>(logits.size())}), {{&row, 1}, adjustments}, result, 0, 1);
  for (std::size_t i = 0; i < logits.size(); ++i)
    EXPECT_TRUE(logits[i] == before[i] || std::isnan(before[i])) << "logit " << i << " changed";
  return drawn;
}

// Draws that lie within rounding of a boundary of the cumulative distribution may go to either side.
void expect_draws_follow(const std::vector<float>& logits, SampleRow row, const std::vector<double>& p, int draws) {
  Sampler sampler;
  std::vector<double> cumulative(p.size());
  std::partial_sum(p.begin(), p.end(), cumulative.begin());
  for (int i = 0; i < draws; ++i) {
    row.position = static_cast<std::uint32_t>(i);
    const double u = philox_uniform(row.seed, row.sample_index, row.position);
    const auto token = static_cast<std::size_t>(sample_one(sampler, logits, row).token);
    ASSERT_LT(token, p.size());
    EXPECT_GT(p[token], 0.0) << "token " << token << " should have been cut";
    EXPECT_LT(token == 0 ? 0.0 : cumulative[token - 1], u + 1e-5);
    EXPECT_GT(cumulative[token], u - 1e-5);
  }
}

TEST(Sampler, DrawsFollowTheDefinition) {
  std::mt19937 rng(7);
  for (const std::size_t size : {1UL, 2UL, 17UL, 255UL, 256UL, 257UL, 3000UL}) {
    const std::vector<float> logits = random_logits(size, static_cast<unsigned>(size));
    for (const float temperature : {0.3F, 1.0F, 2.5F}) {
      for (const int top_k : {0, 1, 5, 40, 100000}) {
        for (const float top_p : {0.0F, 0.05F, 0.5F, 0.93F, 1.0F}) {
          for (const float min_p : {0.0F, 0.02F, 1.0F}) {
            SampleRow row{.temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p};
            row.seed = rng();
            SCOPED_TRACE(::testing::Message() << "size " << size << " temperature " << temperature << " top_k " << top_k << " top_p "
                                              << top_p << " min_p " << min_p);
            expect_draws_follow(logits, row, oracle_probabilities(logits, row), 5);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace gossamer
