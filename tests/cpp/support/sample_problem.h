// Sampling as it is defined, by a full sort in double, and a way to run it on the Ops under test.
#pragma once

#include <string>

#include "support/test_tensor.h"

namespace gossamer::testing {

struct SampleProblem {
  std::vector<std::vector<float>> logits;
  std::vector<SampleRow> rows;
  std::vector<TokenAdjustment> adjustments;
};

struct Drawn {
  std::int32_t token = 0;
  float logprob = 0;
  std::int32_t rank = 0;
  std::vector<std::int32_t> top_tokens;
  std::vector<float> top_logprobs;

  // Bit for bit, NaN included.
  friend bool operator==(const Drawn& a, const Drawn& b) {
    return a.token == b.token && std::bit_cast<std::uint32_t>(a.logprob) == std::bit_cast<std::uint32_t>(b.logprob) && a.rank == b.rank &&
           a.top_tokens == b.top_tokens && a.top_logprobs == b.top_logprobs;
  }
};

inline std::vector<Drawn> run_sample(Ops& ops, const SampleProblem& problem, std::int64_t pad = 3) {
  const auto rows = static_cast<std::int64_t>(problem.rows.size());
  std::vector<float> flat;
  std::int32_t top = 0;
  for (const std::vector<float>& row : problem.logits) flat.insert(flat.end(), row.begin(), row.end());
  for (const SampleRow& row : problem.rows) top = std::max(top, row.num_logprobs);
  const TestTensor logits(ops, DType::f32, {rows, static_cast<std::int64_t>(problem.logits[0].size())}, flat, pad);
  const auto size = static_cast<std::size_t>(rows), width = static_cast<std::size_t>(top);
  std::vector<std::int32_t> tokens(size, 77), ranks(size, 77), top_tokens(size * width, 77);
  std::vector<float> logprobs(size, 77.0F), top_logprobs(size * width, 77.0F);
  ops.sample(logits, {problem.rows, problem.adjustments}, {tokens, logprobs, ranks, top_tokens, top_logprobs, top});
  std::vector<Drawn> drawn;
  for (std::size_t r = 0; r < size; ++r) {
    const auto begin = static_cast<std::ptrdiff_t>(r * width), end = static_cast<std::ptrdiff_t>((r + 1) * width);
    drawn.push_back({tokens[r],
                     logprobs[r],
                     ranks[r],
                     {top_tokens.begin() + begin, top_tokens.begin() + end},
                     {top_logprobs.begin() + begin, top_logprobs.begin() + end}});
  }
  return drawn;
}

inline Drawn sample_one(Ops& ops, const std::vector<float>& logits, const SampleRow& row, std::vector<TokenAdjustment> adjustments = {}) {
  return run_sample(ops, {{logits}, {row}, std::move(adjustments)})[0];
}

inline std::vector<std::size_t> most_likely_first(std::span<const double> logits) {
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  return order;
}

inline std::vector<double> adjusted(const std::vector<float>& logits, const SampleRow& row, std::span<const TokenAdjustment> adjustments,
                                    int index) {
  std::vector<double> x(logits.begin(), logits.end());
  for (const TokenAdjustment& a : adjustments) {
    if (a.row != index) continue;
    double& logit = x[static_cast<std::size_t>(a.token)];
    if (a.seen) logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    logit -= (a.output_count > 0 ? row.presence_penalty : 0) + double{row.frequency_penalty} * a.output_count;
    logit += a.bias;
  }
  return x;
}

// The probability of each token, by id; 0 for those that min_p, top_k and top_p cut, in this order.
inline std::vector<double> exact_probabilities(const std::vector<double>& logits, const SampleRow& row) {
  const std::vector<std::size_t> order = most_likely_first(logits);
  std::vector<double> p(logits.size(), 0.0);
  double total = 0;
  for (std::size_t kept = 0; kept < p.size(); ++kept) {
    const double weight = std::exp((logits[order[kept]] - logits[order[0]]) / row.temperature);
    if (weight < row.min_p || (row.top_k > 0 && kept >= static_cast<std::size_t>(row.top_k))) break;
    p[order[kept]] = weight;
    total += weight;
  }
  double nucleus = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (i > 0 && row.top_p < 1.0F && nucleus >= row.top_p * total) p[order[i]] = 0;
    nucleus += p[order[i]];
  }
  const double rest = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= rest;
  return p;
}

// The draw is the inverse of the cumulative distribution by token id, at Philox's number; within rounding of a boundary either side will
// do.
inline void expect_draw(std::int32_t token, const SampleRow& row, const std::vector<double>& p, const std::string& what) {
  constexpr double kRounding = 1e-5;
  ASSERT_GE(token, 0) << what;
  ASSERT_LT(token, static_cast<std::int32_t>(p.size())) << what;
  const double below = std::accumulate(p.begin(), p.begin() + token, 0.0);
  const double u = philox_uniform(row.seed, row.sample_index, row.position);
  EXPECT_GT(p[static_cast<std::size_t>(token)], 0.0) << what << ": token " << token << " should have been cut";
  EXPECT_LT(below, u + kRounding) << what << ": token " << token;
  EXPECT_GT(below + p[static_cast<std::size_t>(token)], u - kRounding) << what << ": token " << token;
}

}  // namespace gossamer::testing
