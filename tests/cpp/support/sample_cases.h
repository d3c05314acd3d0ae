// Cases of Ops::sample, against its definition (sample_problem.h).
#pragma once

#include <string>

#include "support/sample_problem.h"

namespace gossamer::testing {

inline void sample_draws_cases(Ops& ops) {
  Random random(7);
  for (const std::int64_t vocab : {1, 2, 17, 255, 256, 257, 3000}) {
    SampleProblem problem;
    for (const float temperature : {0.3F, 1.0F, 2.5F}) {
      for (const std::int32_t top_k : {0, 1, 5, 40, 100000}) {
        for (const float top_p : {0.0F, 0.05F, 0.5F, 0.93F, 1.0F}) {
          for (const float min_p : {0.0F, 0.02F, 1.0F}) {
            SampleRow row{.temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p};
            row.repetition_penalty = random.below(2) == 0 ? 1.0F : 1.7F;
            row.presence_penalty = random.below(2) == 0 ? 0.0F : 0.9F;
            row.frequency_penalty = random.below(2) == 0 ? 0.0F : -0.4F;
            row.seed = random.next();
            row.sample_index = static_cast<std::uint32_t>(random.below(4));
            row.position = static_cast<std::uint32_t>(random.below(5000));
            const auto index = static_cast<std::int32_t>(problem.rows.size());
            for (std::int32_t token = 0; token < vocab; ++token) {
              if (random.below(index % 2 == 0 ? vocab + 1 : 4) != 0) continue;
              problem.adjustments.push_back(
                  {index, token, static_cast<std::int32_t>(random.below(3)), random.below(2) == 0, random.value()});
            }
            problem.rows.push_back(row);
            problem.logits.push_back(normal(random, vocab, 3.0F));
          }
        }
      }
    }
    const std::vector<Drawn> drawn = run_sample(ops, problem);
    for (std::size_t r = 0; r < drawn.size(); ++r) {
      const SampleRow& row = problem.rows[r];
      const std::vector<double> logits = adjusted(problem.logits[r], row, problem.adjustments, static_cast<int>(r));
      expect_draw(drawn[r].token, row, exact_probabilities(logits, row),
                  "vocab " + std::to_string(vocab) + " temperature " + std::to_string(row.temperature) + " top_k " +
                      std::to_string(row.top_k) + " top_p " + std::to_string(row.top_p) + " min_p " + std::to_string(row.min_p));
      EXPECT_TRUE(std::isnan(drawn[r].logprob));  // not asked for
      EXPECT_EQ(drawn[r].rank, 0);
    }
  }
}

// The frequencies of many draws against the definition: chi-square at p = 0.001 with fixed seeds.
inline void sample_distribution_case(Ops& ops) {
  Random random(21);
  constexpr std::int64_t kVocab = 24, kDraws = 20000;
  const std::vector<float> logits = normal(random, kVocab, 1.5F);
  const SampleRow settings[] = {{},
                                {.temperature = 0.6F},
                                {.top_k = 7},
                                {.top_p = 0.8F},
                                {.min_p = 0.1F},
                                {.temperature = 1.4F, .top_k = 15, .top_p = 0.9F, .min_p = 0.02F}};
  for (SampleRow row : settings) {
    SampleProblem problem;
    for (std::int64_t i = 0; i < kDraws; ++i) {
      row.seed = 1234 + static_cast<std::uint64_t>(i % 7);
      row.sample_index = static_cast<std::uint32_t>(i % 3);
      row.position = static_cast<std::uint32_t>(i);
      problem.rows.push_back(row);
      problem.logits.push_back(logits);
    }
    std::vector<double> counts(kVocab, 0.0);
    for (const Drawn& drawn : run_sample(ops, problem, 0)) counts[static_cast<std::size_t>(drawn.token)] += 1;
    const std::vector<double> p = exact_probabilities({logits.begin(), logits.end()}, row);
    double chi_square = 0, rare = 0, rare_count = 0;
    int bins = 0;
    for (std::size_t t = 0; t < p.size(); ++t) {
      const double expected = p[t] * kDraws;
      if (expected < 5) {  // pooled
        rare += expected;
        rare_count += counts[t];
        continue;
      }
      chi_square += (counts[t] - expected) * (counts[t] - expected) / expected;
      ++bins;
    }
    if (rare > 0) chi_square += (rare_count - rare) * (rare_count - rare) / std::max(rare, 1.0);
    const double freedom = bins;  // at most: one per bin and the pool, less one
    EXPECT_LT(chi_square, freedom + 3.3 * std::sqrt(2 * freedom) + 6)
        << "top_k " << row.top_k << " top_p " << row.top_p << " min_p " << row.min_p;
  }
}

inline void sample_greedy_cases(Ops& ops) {
  Random random(5);
  const SampleRow greedy{.temperature = 0.0F, .top_k = 3, .top_p = 0.1F, .min_p = 0.5F};
  for (const std::int64_t vocab : {1, 15, 16, 17, 256, 257, 512, 5000}) {
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<float> logits = normal(random, vocab, 2.0F);
      const auto best = static_cast<std::size_t>(random.below(vocab));
      logits[best] = 50.0F;
      for (std::size_t i = best + 1; i < logits.size(); i += 3) logits[i] = 50.0F;  // equal to the best, of larger id
      EXPECT_EQ(sample_one(ops, logits, greedy).token, static_cast<std::int32_t>(best)) << "vocab " << vocab;
    }
  }
  EXPECT_EQ(sample_one(ops, {-5.0F, -3.0F, -4.0F}, greedy).token, 1);
  EXPECT_EQ(sample_one(ops, {-kInfinity, -0.0F, 0.0F}, greedy).token, 1);  // -0 and +0 are equal
}

inline void sample_logprobs_cases(Ops& ops) {
  Random random(9);
  for (const std::int64_t vocab : {1, 5, 300, 4000}) {
    SampleProblem problem;
    for (std::int32_t r = 0; r < 24; ++r) {
      std::vector<float> logits = normal(random, vocab, 4.0F, 10.0F);
      for (std::size_t i = 0; i < logits.size(); i += 7) logits[i] = std::round(logits[i]);  // ties
      if (vocab > 1) logits[static_cast<std::size_t>(vocab / 2)] = -kInfinity;
      SampleRow row{.temperature = r % 3 == 0 ? 0.0F : 3.0F, .repetition_penalty = 1.5F, .seed = random.next(), .num_logprobs = r % 6 - 1};
      if (r % 4 == 3) row.target = static_cast<std::int32_t>(random.below(vocab));
      if (r % 5 == 4) row.num_logprobs = 20;
      if (r % 4 == 1) problem.adjustments.push_back({r, static_cast<std::int32_t>(random.below(vocab)), 1, true, 100.0F});
      if (r % 4 == 2 && vocab > 2) {  // without its largest logit
        const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
        problem.adjustments.push_back({r, static_cast<std::int32_t>(best), 0, false, -kInfinity});
      }
      problem.logits.push_back(std::move(logits));
      problem.rows.push_back(row);
    }
    const std::vector<Drawn> drawn = run_sample(ops, problem);
    for (std::size_t r = 0; r < drawn.size(); ++r) {
      const SampleRow& row = problem.rows[r];
      const Drawn& d = drawn[r];
      const std::vector<double> raw(problem.logits[r].begin(), problem.logits[r].end());  // before penalties and temperature
      const std::vector<std::size_t> order = most_likely_first(raw);
      double total = 0;
      for (const double x : raw) total += std::exp(x - raw[order[0]]);
      const auto logprob = [&](std::size_t token) { return raw[token] - raw[order[0]] - std::log(total); };
      EXPECT_TRUE(row.target < 0 || d.token == row.target);
      if (row.target < 0 && row.num_logprobs < 0) {
        EXPECT_TRUE(std::isnan(d.logprob));
        continue;
      }
      const auto token = static_cast<std::size_t>(d.token);
      if (std::isinf(raw[token])) {
        EXPECT_EQ(d.logprob, -kInfinity);
      } else {
        EXPECT_NEAR(d.logprob, logprob(token), 3e-6);
      }
      EXPECT_EQ(order[static_cast<std::size_t>(d.rank - 1)], token);
      for (std::size_t j = 0; j < d.top_tokens.size(); ++j) {
        const bool wanted = static_cast<std::int32_t>(j) < row.num_logprobs && j < order.size() && std::isfinite(raw[order[j]]);
        EXPECT_EQ(d.top_tokens[j], wanted ? static_cast<std::int32_t>(order[j]) : -1)
            << "vocab " << vocab << " row " << r << " place " << j;
        EXPECT_NEAR(wanted ? d.top_logprobs[j] : 0.0, wanted ? logprob(order[j]) : 0.0, 3e-6);
      }
    }
  }
}

// Defined results at the edges: bans, rows that are not finite, temperatures near 0 and near infinity.
inline void sample_edge_cases(Ops& ops) {
  const std::vector<float> logits{1.0F, 3.0F, 2.0F, 3.0F, -1.0F};
  const SampleRow plain{.seed = 4};
  EXPECT_EQ(sample_one(ops, logits, {.temperature = 1e-9F, .seed = 1}).token % 2, 1);  // one of the two largest
  EXPECT_EQ(sample_one(ops, {1.0F, 2.0F}, {.temperature = 1e-45F, .seed = 1}).token, 1);
  EXPECT_EQ(sample_one(ops, {1.0F, 2.0F}, {.temperature = 1e-45F, .top_p = 0.5F, .seed = 1}).token, 1);
  EXPECT_EQ(sample_one(ops, {3e38F, -3e38F}, {.temperature = 1e-9F, .seed = 1}).token, 0);
  EXPECT_EQ(sample_one(ops, logits, {.top_p = 0.0F, .seed = 9}).token, 1);
  EXPECT_EQ(sample_one(ops, logits, {.top_k = 1, .seed = 9}).token, 1);
  std::vector<int> counts(5, 0);
  for (std::uint32_t i = 0; i < 500; ++i) {
    ++counts[static_cast<std::size_t>(sample_one(ops, logits, {.temperature = 1e30F, .position = i}).token)];
    // At such a temperature all probabilities are equal, yet top_k still goes by the logits.
    EXPECT_GT(logits[static_cast<std::size_t>(sample_one(ops, logits, {.temperature = 1e30F, .top_k = 3, .position = i}).token)], 1.5F);
  }
  for (const int count : counts) EXPECT_GT(count, 50);

  // A banned token is never drawn, also where it is all that a filter would leave.
  const TokenAdjustment ban1{0, 1, 0, false, -kInfinity}, ban3{0, 3, 0, false, -kInfinity};
  for (std::uint32_t i = 0; i < 200; ++i) {
    const std::int32_t token = sample_one(ops, logits, {.temperature = 1e30F, .position = i}, {ban1, ban3}).token;
    EXPECT_TRUE(token == 0 || token == 2 || token == 4) << token;
    EXPECT_EQ(sample_one(ops, logits, {.top_k = 1, .position = i}, {ban1, ban3}).token, 2);
  }
  EXPECT_EQ(sample_one(ops, logits, {.temperature = 0.0F}, {ban1}).token, 3);
  EXPECT_EQ(sample_one(ops, {1.0F}, plain, {{0, 0, 0, false, -kInfinity}}).token, -1);  // everything is banned

  for (const float bad : {kNan, kInfinity, -kNan}) {
    for (const std::int32_t vocab : {1, 16, 300}) {
      for (const std::int32_t place : {0, vocab / 2, vocab - 1}) {
        std::vector<float> row(static_cast<std::size_t>(vocab), 0.5F);
        row[static_cast<std::size_t>(place)] = bad;
        for (const SampleRow& settings :
             {SampleRow{}, SampleRow{.temperature = 0.0F}, SampleRow{.top_p = 0.5F, .num_logprobs = 2}, SampleRow{.target = 0}}) {
          const Drawn drawn = sample_one(ops, row, settings, {{0, place, 1, true, -kInfinity}});  // a ban does not hide it
          EXPECT_EQ(drawn.token, -1);
          EXPECT_TRUE(std::isnan(drawn.logprob));
          EXPECT_EQ(drawn.rank, 0);
          for (const std::int32_t token : drawn.top_tokens) EXPECT_EQ(token, -1);
        }
      }
    }
  }
  EXPECT_EQ(sample_one(ops, {-kInfinity, -kInfinity}, {.temperature = 0.0F}).token, -1);
  EXPECT_EQ(sample_one(ops, {-kInfinity, -kInfinity}, {.target = 1}).token, -1);
}

// What a row gets does not depend on its company: bit for bit, alone, in order, in reverse, beside a row that is not finite.
inline void sample_rows_stand_alone(Ops& ops) {
  Random random(31);
  constexpr std::int64_t kVocab = 700;
  SampleProblem problem;
  std::vector<SampleProblem> single;
  for (std::int32_t r = 0; r < 40; ++r) {
    SampleRow row{
        .temperature = r % 4 == 0 ? 0.0F : 1.2F, .top_k = r % 3 == 0 ? 50 : 0, .top_p = r % 2 == 0 ? 0.9F : 1.0F, .seed = random.next()};
    row.num_logprobs = r % 5 - 1;
    row.frequency_penalty = 0.3F;
    std::vector<float> logits = normal(random, kVocab, 2.0F);
    if (r % 9 == 8) logits[13] = kNan;
    std::vector<TokenAdjustment> own;
    for (std::int32_t token = r; token < kVocab; token += 50 + r) own.push_back({r, token, 1 + token % 3, true, 0.25F});
    problem.adjustments.insert(problem.adjustments.end(), own.begin(), own.end());
    for (TokenAdjustment& a : own) a.row = 0;
    single.push_back({{logits}, {row}, own});
    problem.logits.push_back(std::move(logits));
    problem.rows.push_back(row);
  }
  const std::vector<Drawn> together = run_sample(ops, problem);
  SampleProblem reversed;
  for (std::size_t r = single.size(); r-- > 0;) {
    const auto index = static_cast<std::int32_t>(reversed.rows.size());
    for (TokenAdjustment a : single[r].adjustments) {
      a.row = index;
      reversed.adjustments.push_back(a);
    }
    reversed.logits.push_back(single[r].logits[0]);
    reversed.rows.push_back(single[r].rows[0]);
  }
  const std::vector<Drawn> backwards = run_sample(ops, reversed);
  for (std::size_t r = 0; r < single.size(); ++r) {
    EXPECT_EQ(together[r], backwards[single.size() - 1 - r]) << "row " << r;
    Drawn alone = run_sample(ops, single[r])[0];
    alone.top_tokens.resize(together[r].top_tokens.size(), -1);
    alone.top_logprobs.resize(together[r].top_logprobs.size(), -kInfinity);
    EXPECT_EQ(together[r], alone) << "row " << r;
  }
}

}  // namespace gossamer::testing
