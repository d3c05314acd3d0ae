// Random traces of the stepped engine: additions, aborts and failures at every point, against what each sequence gives alone.
#include "engine/engine_core.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "cpu/cpu_ops.h"
#include "engine/engine_rig.h"

namespace gossamer {
namespace {

using testing::FakeModel;

struct Plan {
  std::vector<std::int32_t> prompt;
  SamplingParams params;
};

std::unique_ptr<Sequence> make(const Plan& plan, SequenceId id) {
  const SequenceSpec spec{
      .prompt = plan.prompt, .params = plan.params, .max_tokens = *plan.params.max_tokens, .seed = *plan.params.seed, .eos_ids = {}};
  return std::make_unique<Sequence>(make_sequence(spec, id, 0));
}

struct Outcome {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> scored;  // prompt tokens, by position
  FinishReason reason = FinishReason::none;
  std::optional<std::int32_t> stop_token;
  bool failed = false;
};
bool operator==(const Outcome& a, const Outcome& b) {
  return a.tokens == b.tokens && a.scored == b.scored && a.reason == b.reason && a.stop_token == b.stop_token && a.failed == b.failed;
}

void take(const StepEvents& events, std::map<SequenceId, Outcome>& outcomes) {
  for (const TokenEvent& event : events.tokens) {
    if (event.token < 0) continue;
    Outcome& outcome = outcomes[event.sequence];
    EXPECT_EQ(outcome.reason, FinishReason::none) << "a token after the end";
    (event.is_prompt ? outcome.scored : outcome.tokens).push_back(event.token);
  }
  for (const EndEvent& end : events.ends) {
    Outcome& outcome = outcomes[end.sequence];
    EXPECT_TRUE(outcome.reason == FinishReason::none && !outcome.failed) << "ended twice";
    outcome.reason = end.reason;
    outcome.stop_token = end.stop_token;
    outcome.failed = end.error != nullptr;
  }
}

// With and without beginning a step before the one before it has been read.
class Traces : public ::testing::TestWithParam<bool> {
 protected:
  std::int64_t draw(std::int64_t low, std::int64_t high) { return std::uniform_int_distribution<std::int64_t>(low, high)(random_); }

  // Few plans, so that each one's lonely outcome is computed once.
  std::vector<Plan> make_plans() {
    std::vector<Plan> plans(30);
    for (std::size_t i = 0; i < plans.size(); ++i) {
      const std::int64_t num_prompt = draw(1, 25);
      for (std::int64_t t = 0; t < num_prompt; ++t) plans[i].prompt.push_back(static_cast<std::int32_t>(draw(0, 90)));
      SamplingParams& params = plans[i].params;
      params.max_tokens = draw(0, 30);
      params.seed = i;
      params.ignore_eos = i % 2 == 0;
      if (i % 3 == 0) params.temperature = 0;
      if (i % 4 == 1) params.prompt_logprobs = 1;
      if (i % 5 == 2) params.stop_token_ids = {3, 14, 15, 92, 65, 35, 89, 79};
      if (i % 7 == 3) params.presence_penalty = 1.5;
      if (i % 10 == 9) plans[i].prompt[static_cast<std::size_t>(draw(0, num_prompt - 1))] = FakeModel::kPoison;
    }
    return plans;
  }

  EngineConfig config(std::int64_t num_blocks, std::int64_t max_seqs, std::int64_t max_tokens) {
    EngineConfig config = small_config();
    config.max_model_len = 56;
    config.num_blocks = num_blocks;
    config.max_num_seqs = max_seqs;
    config.max_num_batched_tokens = max_tokens;
    config.runs_ahead = GetParam();
    return config;
  }

  Outcome alone(const Plan& plan) {
    EngineConfig plain = config(100, 1, 64);
    plain.runs_ahead = false;
    EngineCore core(*ops_, *comm_, model_, plain);
    core.add(make(plan, 1));
    std::map<SequenceId, Outcome> outcomes;
    while (core.has_work()) take(core.step(), outcomes);
    return outcomes[1];
  }

  std::mt19937 random_{20261123};
  FakeModel model_;
  std::unique_ptr<Ops> ops_ = make_reference_ops();
  std::unique_ptr<Communicator> comm_ = make_single_communicator();
};

TEST_P(Traces, GiveEverySequenceWhatItGivesAlone) {
  const std::vector<Plan> plans = make_plans();
  std::vector<Outcome> expected;
  for (const Plan& plan : plans) expected.push_back(alone(plan));
  std::int64_t num_preemptions = 0;
  std::int64_t num_whole = 0;
  std::int64_t num_failed = 0;
  std::int64_t num_aborted = 0;
  for (int trace = 0; trace < 60; ++trace) {
    const std::int64_t max_seqs = draw(1, 8);
    EngineCore core(*ops_, *comm_, model_, config(draw(14, 30), max_seqs, draw(max_seqs, 30)));
    std::map<SequenceId, std::size_t> live;
    std::map<SequenceId, Outcome> outcomes;
    SequenceId last_id = 0;
    for (int i = 0; i < 120 || core.has_work(); ++i) {
      ASSERT_LT(i, 5000) << "the trace does not drain";
      if (i < 120 && draw(0, 3) == 0) {
        auto plan = static_cast<std::size_t>(draw(0, std::ssize(plans) - 1));
        if (trace % 2 == 0 && plans[plan].params.presence_penalty != 0) plan = 0;  // penalties keep steps from running ahead
        core.add(make(plans[plan], ++last_id));
        live[last_id] = plan;
      }
      if (draw(0, 12) == 0) {  // any id at all: waiting, running, over, unknown
        const auto id = static_cast<SequenceId>(draw(0, static_cast<std::int64_t>(last_id) + 1));
        core.abort(id);
        core.abort(id);
        num_aborted += live.contains(id) && outcomes[id].reason == FinishReason::none ? 1 : 0;
        live.erase(id);
        core.check_invariants();
      }
      take(core.step(), outcomes);
    }
    EXPECT_EQ(core.scheduler().blocks().num_free(), core.scheduler().blocks().num_blocks());
    num_preemptions += core.scheduler().num_preemptions();
    for (const auto& [id, plan] : live) {
      ASSERT_TRUE(outcomes[id] == expected[plan]) << "trace " << trace << ", sequence " << id << ", plan " << plan;
      ++num_whole;
      num_failed += outcomes[id].failed ? 1 : 0;
    }
  }
  EXPECT_GT(num_preemptions, 100) << "the traces are too easy";
  EXPECT_GT(num_whole, 500);
  EXPECT_GT(num_failed, 20);
  EXPECT_GT(num_aborted, 20);
}

// One sequence is cancelled, one stops and one is thrown out, all in the same step.
TEST_P(Traces, SurviveAbortStopAndPreemptionInOneStep) {
  Plan plan{.prompt = {1, 2, 3}, .params = greedy(20)};
  plan.params.seed = 1;
  const Outcome whole = alone(plan);
  EngineCore core(*ops_, *comm_, model_, config(6, 4, 16));  // 24 tokens
  Plan stopping = plan;
  stopping.params.stop_token_ids = {whole.tokens[4]};
  const Outcome stopped = alone(stopping);
  core.add(make(plan, 1));
  core.add(make(stopping, 2));
  core.add(make(plan, 3));
  std::map<SequenceId, Outcome> outcomes;
  for (int step = 0; step < 4; ++step) take(core.step(), outcomes);
  core.abort(3);
  while (core.has_work()) take(core.step(), outcomes);
  EXPECT_TRUE(outcomes[1] == whole);
  EXPECT_TRUE(outcomes[2] == stopped);
  EXPECT_EQ(outcomes[2].stop_token, whole.tokens[4]);
  EXPECT_EQ(core.scheduler().blocks().num_free(), 6);
}

TEST_P(Traces, AreBoundedByThePreemptionsOfOlderSequences) {
  EngineCore core(*ops_, *comm_, model_, config(14, 8, 16));
  Plan plan{.prompt = {1}, .params = greedy(50)};
  plan.params.seed = 1;
  const Outcome whole = alone(plan);
  for (SequenceId id = 1; id <= 8; ++id) core.add(make(plan, id));
  std::map<SequenceId, Outcome> outcomes;
  std::int64_t num_steps = 0;
  while (core.has_work()) {
    take(core.step(), outcomes);
    ASSERT_LE(++num_steps, 8 * 51) << "no faster than one after the other";
  }
  for (SequenceId id = 1; id <= 8; ++id) EXPECT_TRUE(outcomes[id] == whole);
}

TEST_P(Traces, BeginTheNextStepFirstIfTheyMay) {
  Plan plan{.prompt = {1, 2, 3}, .params = greedy(3)};
  plan.params.seed = 1;
  for (const double penalty : {0.0, 1.0}) {
    plan.params.presence_penalty = penalty;
    EngineCore core(*ops_, *comm_, model_, config(100, 1, 64));
    core.add(make(plan, 1));
    const bool is_ahead = GetParam() && penalty == 0;
    for (int step = 1; step <= 3; ++step) {
      EXPECT_EQ(core.step().tokens.size(), 1U);
      EXPECT_EQ(core.num_steps(), is_ahead && step < 3 ? step + 1 : step);
    }
    EXPECT_FALSE(core.has_work());
  }
}

// What a step drew for a sequence that the step before had ended is no event, and its blocks are free.
TEST_P(Traces, DropWhatWasDrawnBeyondAStop) {
  Plan plan{.prompt = {1, 2, 3}, .params = greedy(20)};
  plan.params.seed = 1;
  const Outcome whole = alone(plan);
  plan.params.stop_token_ids = {whole.tokens[5]};
  const std::size_t stop =
      static_cast<std::size_t>(std::find(whole.tokens.begin(), whole.tokens.end(), whole.tokens[5]) - whole.tokens.begin());
  EngineCore core(*ops_, *comm_, model_, config(100, 1, 64));
  core.add(make(plan, 1));
  std::map<SequenceId, Outcome> outcomes;
  while (core.has_work()) take(core.step(), outcomes);
  EXPECT_EQ(outcomes[1].tokens.size(), stop + 1);
  EXPECT_EQ(outcomes[1].reason, FinishReason::stop);
  EXPECT_EQ(core.num_steps(), static_cast<std::int64_t>(stop) + (GetParam() ? 2 : 1));
  EXPECT_EQ(core.scheduler().blocks().num_free(), 100);
}

// Everything that is under way is dropped, and the next sequence finds a clean engine.
TEST_P(Traces, StartAnewAfterAStepThatThrew) {
  Plan plan{.prompt = {1, 2, 3}, .params = greedy(20)};
  plan.params.seed = 1;
  const Outcome whole = alone(plan);
  for (int bad = 1; bad <= 6; ++bad) {
    FakeModel model;
    model.on_forward = [bad](std::int64_t forward) {
      if (forward == bad) throw OutOfMemoryError(1, 0, "test", "none");
    };
    EngineCore core(*ops_, *comm_, model, config(100, 2, 64));
    core.add(make(plan, 1));
    core.add(make(plan, 2));
    const auto run = [&] {
      while (core.has_work()) core.step();
    };
    EXPECT_THROW(run(), OutOfMemoryError);
    core.abort_all();
    EXPECT_FALSE(core.has_work());
    core.check_invariants();
    core.add(make(plan, 3));
    std::map<SequenceId, Outcome> outcomes;
    while (core.has_work()) take(core.step(), outcomes);
    EXPECT_TRUE(outcomes[3] == whole);
    EXPECT_EQ(core.scheduler().blocks().num_free(), 100);
  }
}

INSTANTIATE_TEST_SUITE_P(Steps, Traces, ::testing::Bool(), [](const auto& info) { return info.param ? "RunAhead" : "OneByOne"; });

}  // namespace
}  // namespace gossamer
