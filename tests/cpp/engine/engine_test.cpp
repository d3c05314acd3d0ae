#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "engine/engine_rig.h"

namespace gossamer {
namespace {

using std::chrono::milliseconds;
using testing::FakeModel;

TEST(Engine, GeneratesDeterministicVariedTokens) {
  Rig rig;
  const SampleText first = rig.run({1, 2, 3}, greedy(40))[0];
  EXPECT_EQ(first.tokens.size(), 40U);
  EXPECT_EQ(first.reason, FinishReason::length);
  std::vector<std::int32_t> distinct = first.tokens;
  std::sort(distinct.begin(), distinct.end());
  EXPECT_GE(std::unique(distinct.begin(), distinct.end()) - distinct.begin(), 16);
  EXPECT_TRUE(rig.run({1, 2, 3}, greedy(40))[0] == first);
  EXPECT_FALSE(rig.run({1, 3, 2}, greedy(40))[0] == first);
}

TEST(Engine, StopsAtStopTokensAndEos) {
  Rig rig;
  const std::vector<std::int32_t> tokens = rig.run({5}, greedy(60))[0].tokens;
  SamplingParams params = greedy(60);
  params.stop_token_ids = {tokens[20]};
  const auto first = std::find(tokens.begin(), tokens.end(), tokens[20]) - tokens.begin();
  const SampleText stopped = rig.run({5}, params)[0];
  EXPECT_EQ(stopped.reason, FinishReason::stop);
  EXPECT_EQ(stopped.stop_token, tokens[20]);
  EXPECT_EQ(stopped.tokens, std::vector<std::int32_t>(tokens.begin(), tokens.begin() + first + 1)) << "the stop token is included";

  SamplingParams biased = greedy(60);
  biased.logit_bias = {{FakeModel::kEos, 100}};
  EXPECT_EQ(rig.run({5}, biased)[0].tokens.size(), 60U) << "ignore_eos";
  biased.ignore_eos = false;
  const SampleText ended = rig.run({5}, biased)[0];
  EXPECT_EQ(ended.tokens, std::vector<std::int32_t>{FakeModel::kEos});
  EXPECT_EQ(ended.stop_token, FakeModel::kEos);
}

TEST(Engine, BansStopTokensUntilMinTokens) {
  Rig rig;
  SamplingParams params = greedy(12);
  params.ignore_eos = false;
  params.logit_bias = {{FakeModel::kEos, 100}, {3, 50}};
  params.stop_token_ids = {4};
  params.min_tokens = 5;
  EXPECT_EQ(rig.run({1}, params)[0].tokens, (std::vector<std::int32_t>{3, 3, 3, 3, 3, FakeModel::kEos}));
}

TEST(Engine, PenaltiesCountPromptAndOutput) {
  Rig rig;
  SamplingParams params = greedy(4);
  params.logit_bias = {{10, 50}, {11, 40}};
  EXPECT_EQ(rig.run({1}, params)[0].tokens, (std::vector<std::int32_t>{10, 10, 10, 10}));
  SamplingParams frequent = greedy(40);
  frequent.logit_bias = {{10, 60}};
  frequent.frequency_penalty = 2;  // logits lie in [-4, 4]: after 34 times at most the bias is used up
  const auto often = rig.run({1}, frequent)[0].tokens;
  EXPECT_GE(std::count(often.begin(), often.end(), 10), 26);
  EXPECT_LE(std::count(often.begin(), often.end(), 10), 34);
  SamplingParams repeated = greedy(30);
  repeated.repetition_penalty = 100;
  const auto tokens = rig.run({1, 2, 3}, repeated)[0].tokens;
  for (const std::int32_t seen : {1, 2, 3}) EXPECT_EQ(std::count(tokens.begin(), tokens.end(), seen), 0);
  std::vector<std::int32_t> sorted = tokens;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(std::adjacent_find(sorted.begin(), sorted.end()), sorted.end()) << "a token was drawn twice";
}

TEST(Engine, DrawsIndependentSamplesFromOneSeed) {
  Rig rig;
  SamplingParams params;
  params.n = 5;
  params.seed = 42;
  params.max_tokens = 20;
  params.ignore_eos = true;
  const auto samples = rig.run({7, 8}, params);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    EXPECT_EQ(samples[i].tokens.size(), 20U);
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(samples[i].tokens, samples[j].tokens);
  }
  EXPECT_TRUE(rig.run({7, 8}, params) == samples) << "the same seed";
  params.seed = 43;
  EXPECT_FALSE(rig.run({7, 8}, params) == samples) << "another seed";
  params.seed.reset();
  EXPECT_FALSE(rig.run({7, 8}, params) == rig.run({7, 8}, params)) << "no seed: every request has its own";
}

TEST(Engine, RequestsWithoutASeedFollowTheEnginesSeed) {
  const auto run = [](std::uint64_t seed) {
    EngineConfig config = small_config();
    config.seed = seed;
    Rig rig(config);
    SamplingParams params;
    params.max_tokens = 20;
    return rig.run({7, 8}, params);
  };
  EXPECT_TRUE(run(1) == run(1));
  EXPECT_FALSE(run(1) == run(2));
}

TEST(Engine, ReportsLogprobsThatAreALogSoftmax) {
  Rig rig;
  SamplingParams params = greedy(5);
  params.logprobs = kMaxLogprobs;
  const SampleText sample = rig.run({1, 2}, params)[0];
  ASSERT_EQ(sample.logprobs.size(), 5U);
  for (std::size_t t = 0; t < 5; ++t) {
    ASSERT_EQ(sample.logprobs[t].size(), 1U + kMaxLogprobs);
    EXPECT_EQ(sample.logprobs[t][0].token, sample.tokens[t]);
    EXPECT_TRUE(sample.logprobs[t][0] == sample.logprobs[t][1]) << "greedy: the token itself is the most likely";
    EXPECT_EQ(sample.logprobs[t][0].rank, 1);
    for (std::size_t j = 2; j <= kMaxLogprobs; ++j) EXPECT_LE(sample.logprobs[t][j].logprob, sample.logprobs[t][j - 1].logprob);
  }
}

TEST(Engine, ScoresAPromptAsItWouldGenerateIt) {
  Rig rig;
  SamplingParams params = greedy(50);
  params.logprobs = 2;
  const std::vector<std::int32_t> prompt = {3, 1, 4};
  const SampleText generated = rig.run(prompt, params)[0];
  std::vector<std::int32_t> all = prompt;
  all.insert(all.end(), generated.tokens.begin(), generated.tokens.end());

  SamplingParams scoring;
  scoring.max_tokens = 0;
  scoring.prompt_logprobs = 2;
  const RequestId id = rig.engine.submit(all, scoring);
  const SampleText scored = collect(rig.engine, id)[0];
  EXPECT_TRUE(scored.tokens.empty());
  EXPECT_EQ(scored.reason, FinishReason::length);
  const auto logprobs = rig.engine.prompt_logprobs(id);
  ASSERT_EQ(logprobs.size(), all.size());
  EXPECT_TRUE(logprobs[0].empty());
  for (std::size_t t = 0; t < generated.tokens.size(); ++t) {
    EXPECT_TRUE(logprobs[prompt.size() + t] == generated.logprobs[t]) << "token " << t;
  }
}

TEST(Engine, ChecksPromptsAndLengthsBeforeAnythingRuns) {
  Rig rig;
  EXPECT_THROW(rig.engine.submit({}, greedy(1)), InvalidArgument);
  EXPECT_THROW(rig.engine.submit({-1}, greedy(1)), InvalidArgument);
  EXPECT_THROW(rig.engine.submit({FakeModel::kVocab}, greedy(1)), InvalidArgument);
  EXPECT_THROW(rig.engine.submit({1}, greedy(-1)), InvalidArgument);
  const std::vector<std::int32_t> prompt(150, 1);
  EXPECT_EQ(rig.run(prompt, greedy(50))[0].tokens.size(), 50U);
  try {
    rig.engine.submit(prompt, greedy(51));
    FAIL();
  } catch (const ContextLengthError& error) {
    EXPECT_EQ(error.num_prompt, 150);
    EXPECT_EQ(error.num_new, 51);
    EXPECT_EQ(error.limit, 200);
  }
  SamplingParams rest = greedy(1);
  rest.max_tokens.reset();
  EXPECT_EQ(rig.run(prompt, rest)[0].tokens.size(), 50U);
  EXPECT_THROW(rig.engine.submit(std::vector<std::int32_t>(200, 1), rest), ContextLengthError);
  EXPECT_THROW(rig.engine.submit(std::vector<std::int32_t>(201, 1), greedy(0)), ContextLengthError);
  SamplingParams huge = greedy(1);
  huge.max_tokens = INT64_MAX;
  EXPECT_THROW(rig.engine.submit({1}, huge), ContextLengthError);
  EXPECT_EQ(rig.engine.stats().requests_finished, 2);
}

TEST(Engine, RejectsWhatThePoolCanNeverHold) {
  EngineConfig config = small_config();
  config.num_blocks = 5;  // 20 tokens
  Rig rig(config);
  EXPECT_THROW(rig.engine.submit(std::vector<std::int32_t>(21, 1), greedy(0)), InvalidArgument);
  EXPECT_THROW(rig.engine.submit({1, 2, 3}, greedy(19)), InvalidArgument);
  SamplingParams rest = greedy(1);
  rest.max_tokens.reset();
  EXPECT_EQ(rig.run({1, 2, 3}, rest)[0].tokens.size(), 18U);
}

TEST(Engine, LimitsTheQueue) {
  EngineConfig config = small_config();
  config.max_num_seqs = 2;
  config.max_queue = 3;
  Rig rig(config);
  Gate gate(rig.model);
  std::vector<RequestId> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(rig.engine.submit({1}, greedy(3)));
  EXPECT_THROW(rig.engine.submit({1}, greedy(3)), QueueFullError);
  gate.open();
  for (const RequestId id : ids) EXPECT_EQ(collect(rig.engine, id)[0].tokens.size(), 3U);
  EXPECT_EQ(rig.run({1}, greedy(3))[0].tokens.size(), 3U);
}

TEST(Engine, NonFiniteLogitsFailTheirRequestOnly) {
  Rig rig;
  const SampleText alone = rig.run({1, 2, 3}, greedy(30))[0];
  const RequestId good = rig.engine.submit({1, 2, 3}, greedy(30));
  SamplingParams params = greedy(30);
  params.n = 3;
  const RequestId bad = rig.engine.submit({1, FakeModel::kPoison}, params);
  SamplingParams scoring = greedy(0);
  scoring.prompt_logprobs = 0;
  const RequestId bad_prompt = rig.engine.submit({1, FakeModel::kPoison, 2, 3}, scoring);
  EXPECT_TRUE(collect(rig.engine, good)[0] == alone);
  for (const RequestId id : {bad, bad_prompt}) {
    EXPECT_THROW(while (true) rig.engine.wait(id, milliseconds(1000)), NumericsError);
    EXPECT_TRUE(rig.engine.finished(id));
    EXPECT_THROW(rig.engine.wait(id, milliseconds(0)), NumericsError) << "the error stays";
  }
  EXPECT_EQ(rig.engine.stats().requests_failed, 2);
  EXPECT_TRUE(rig.run({1, 2, 3}, greedy(30))[0] == alone);
  EXPECT_EQ(rig.engine.stats().free_blocks, small_config().num_blocks);
}

}  // namespace
}  // namespace gossamer
