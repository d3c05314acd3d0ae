// What a request returns depends on nothing but itself: alone, in company, in any order, chunked, preempted, on any ISA.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>

#include "engine/engine_rig.h"
#include "support/recording_ops.h"
#include "support/tiny_model.h"

namespace gossamer {
namespace {

using testing::FakeModel;

struct Case {
  std::vector<std::int32_t> prompt;
  SamplingParams params;
};

// Greedy, seeded and penalised requests of all lengths.
std::vector<Case> make_cases(std::size_t count, std::int64_t vocab, std::int64_t max_len, std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto draw = [&](std::int64_t low, std::int64_t high) { return std::uniform_int_distribution<std::int64_t>(low, high)(random); };
  std::vector<Case> cases(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t num_prompt = draw(1, max_len / 2);
    for (std::int64_t t = 0; t < num_prompt; ++t) cases[i].prompt.push_back(static_cast<std::int32_t>(draw(0, vocab - 1)));
    SamplingParams& params = cases[i].params;
    params.max_tokens = draw(1, max_len - num_prompt);
    params.ignore_eos = true;
    params.logprobs = 3;
    params.seed = i;
    params.n = i % 5 == 4 ? 3 : 1;
    if (i % 3 == 0) params.temperature = 0;
    if (i % 3 == 1) params.top_k = 10;
    if (i % 4 == 2) params.repetition_penalty = 1.3;
    if (i % 4 == 3) params.frequency_penalty = 0.7;
    if (i % 6 == 5) params.prompt_logprobs = 2;
  }
  return cases;
}

struct Answer {
  std::vector<SampleText> samples;
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;
};
bool operator==(const Answer& a, const Answer& b) { return a.samples == b.samples && a.prompt_logprobs == b.prompt_logprobs; }

std::vector<Answer> run_together(Engine& engine, const std::vector<Case>& cases, const std::vector<std::size_t>& order) {
  std::vector<RequestId> ids(cases.size());
  std::vector<Answer> answers(cases.size());
  for (const std::size_t i : order) ids[i] = engine.submit(cases[i].prompt, cases[i].params);
  for (const std::size_t i : order) {
    answers[i].samples = collect(engine, ids[i], static_cast<std::size_t>(cases[i].params.n));
    answers[i].prompt_logprobs = engine.prompt_logprobs(ids[i]);
    engine.release(ids[i]);
  }
  return answers;
}

std::vector<Answer> run_alone(Engine& engine, const std::vector<Case>& cases) {
  std::vector<Answer> answers;
  for (const Case& one : cases) answers.push_back(run_together(engine, {one}, {0})[0]);
  return answers;
}

// Every way to run the cases must give the answers that each gives alone.
void expect_company_changes_nothing(Ops& ops, const Model& model, EngineConfig config, const std::vector<Case>& cases,
                                    const std::vector<Answer>& alone, const std::string& what) {
  const auto comm = make_single_communicator();
  std::mt19937 random(7);
  std::vector<std::size_t> order(cases.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::int64_t num_preemptions = 0;
  const auto expect_same = [&](const std::string& how) {
    Engine engine(ops, *comm, model, config);
    const std::vector<Answer> answers = run_together(engine, cases, order);
    for (std::size_t i = 0; i < cases.size(); ++i) ASSERT_TRUE(answers[i] == alone[i]) << what << ", " << how << ", case " << i;
    num_preemptions += engine.stats().preemptions;
  };
  const EngineConfig base = config;
  for (const std::int64_t batch : {2, 5, 16, 32}) {
    config.max_num_seqs = batch;
    config.max_num_batched_tokens = std::max<std::int64_t>(batch, 64);
    std::shuffle(order.begin(), order.end(), random);
    expect_same("batch of " + std::to_string(batch));
  }
  for (const std::int64_t chunk : {1, 2, 3, 7, 13, 300}) {
    config = base;
    config.max_num_seqs = std::min<std::int64_t>(chunk, 3);
    config.max_num_batched_tokens = chunk;
    expect_same("chunks of " + std::to_string(chunk));
  }
  EXPECT_EQ(num_preemptions, 0);
  for (const std::int64_t spare : {0, 3, 9}) {
    config = base;
    config.num_blocks = (base.max_model_len + base.block_size - 1) / base.block_size + spare;
    config.max_num_seqs = 8;
    config.max_num_batched_tokens = 24;
    std::shuffle(order.begin(), order.end(), random);
    expect_same("a pool with " + std::to_string(spare) + " spare blocks");
  }
  EXPECT_GT(num_preemptions, 10) << what << ": the pools are too large";
}

EngineConfig config_for(std::int64_t max_model_len, std::int64_t block_size) {
  EngineConfig config;
  config.max_model_len = max_model_len;
  config.max_num_seqs = 1;
  config.max_num_batched_tokens = 512;
  config.block_size = block_size;
  config.num_blocks = 40 * ((max_model_len + block_size - 1) / block_size);
  config.check_invariants = true;
  return config;
}

TEST(Determinism, OfTheFakeModel) {
  const auto ops = make_reference_ops();
  const auto comm = make_single_communicator();
  const FakeModel model;
  const EngineConfig config = config_for(90, 4);
  const std::vector<Case> cases = make_cases(40, FakeModel::kVocab - 2, 90, 1);
  std::vector<Answer> alone;
  {
    Engine engine(*ops, *comm, model, config);
    alone = run_alone(engine, cases);
  }
  expect_company_changes_nothing(*ops, model, config, cases, alone, "fake model");
}

// Steps that begin before the one before them has been read give the same tokens, stops and log-probabilities.
void expect_running_ahead_changes_nothing(Ops& ops, const Model& model, EngineConfig config, std::vector<Case> cases) {
  const auto comm = make_single_communicator();
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    SamplingParams& params = cases[i].params;
    params.repetition_penalty = 1;
    params.frequency_penalty = 0;
    if (i % 4 == 3) params.stop_token_ids = {1, 5, 11, 17, 23, 31, 40, 44};
    if (i % 5 == 2) params.min_tokens = std::min<std::int64_t>(*params.max_tokens, 6);
    if (i % 5 == 2) params.stop_token_ids = {2, 3, 7, 13, 19, 29, 37, 41, 43, 47};
    order.push_back(i);
  }
  std::vector<Answer> alone;
  {
    Engine engine(ops, *comm, model, config);
    alone = run_alone(engine, cases);
  }
  config.runs_ahead = true;
  for (const std::int64_t spare : {100, 3, 0}) {
    config.num_blocks = (config.max_model_len + config.block_size - 1) / config.block_size + spare;
    for (const std::int64_t batch : {1, 3, 16}) {
      config.max_num_seqs = batch;
      config.max_num_batched_tokens = batch + 8;
      Engine engine(ops, *comm, model, config);
      const std::vector<Answer> answers = run_together(engine, cases, order);
      for (std::size_t i = 0; i < cases.size(); ++i) ASSERT_TRUE(answers[i] == alone[i]) << "batch of " << batch << ", case " << i;
      EXPECT_EQ(engine.stats().free_blocks, config.num_blocks);
    }
  }
}

// Decode steps are replayed with the verbs and addresses of an earlier one; with heads_in_step their head, too.
TEST(Determinism, OfRecordedSteps) {
  const auto ops = make_cpu_ops({.num_threads = 1, .isa = {}});
  const auto comm = make_single_communicator();
  ThreadPool pool(1);
  const testing::Files files = testing::write_checkpoint(testing::tiny_model("llama", 0.5, DType::bf16));
  const auto model = load_model(testing::open_checkpoint(files), *ops, *comm, pool);
  EngineConfig config = config_for(60, 4);
  std::vector<Case> cases = make_cases(30, model->config().vocab_size, 60, 5);
  std::vector<std::size_t> order(cases.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::vector<Answer> expected;
  {
    Engine engine(*ops, *comm, *model, config);
    expected = run_alone(engine, cases);
  }
  for (const bool ahead : {false, true}) {
    for (const std::int64_t batch : {1, 3, 16}) {
      std::int64_t launches[2] = {};
      for (const bool heads : {false, true}) {
        testing::RecordingOps recording(*ops);
        config.runs_ahead = ahead;
        config.heads_in_step = heads;
        config.max_num_seqs = batch;
        config.max_num_batched_tokens = batch + 8;
        {
          Engine engine(recording, *comm, *model, config);
          const std::vector<Answer> answers = run_together(engine, cases, order);
          for (std::size_t i = 0; i < cases.size(); ++i) {
            ASSERT_TRUE(answers[i] == expected[i]) << "batch of " << batch << ", heads " << heads << ", ahead " << ahead << ", case " << i;
          }
        }
        EXPECT_GT(recording.num_replays(), 50);
        launches[heads ? 1 : 0] = recording.num_launches();
      }
      EXPECT_LT(launches[1] + 100, launches[0]) << "the head is still launched by itself";
    }
  }
}

TEST(Determinism, OfRunningAhead) {
  const auto reference = make_reference_ops();
  expect_running_ahead_changes_nothing(*reference, FakeModel(), config_for(90, 4), make_cases(40, FakeModel::kVocab - 2, 90, 3));
  const auto ops = make_cpu_ops({.num_threads = 2, .isa = {}});
  const auto comm = make_single_communicator();
  ThreadPool pool(1);
  const testing::Files files = testing::write_checkpoint(testing::tiny_model("llama", 0.5, DType::bf16));
  const auto model = load_model(testing::open_checkpoint(files), *ops, *comm, pool);
  expect_running_ahead_changes_nothing(*ops, *model, config_for(60, 4), make_cases(20, model->config().vocab_size, 60, 4));
}

class RealModels : public ::testing::TestWithParam<std::string> {
 protected:
  void expect_deterministic(Ops& ops, const std::string& what) {
    const auto comm = make_single_communicator();
    ThreadPool pool(1);
    const testing::Files files = testing::write_checkpoint(testing::tiny_model(GetParam(), 0.5, DType::bf16));
    const auto model = load_model(testing::open_checkpoint(files), ops, *comm, pool);
    const EngineConfig config = config_for(60, 4);
    const std::vector<Case> cases = make_cases(20, model->config().vocab_size, 60, 2);
    std::vector<Answer> alone;
    {
      Engine engine(ops, *comm, *model, config);
      alone = run_alone(engine, cases);
    }
    expect_company_changes_nothing(ops, *model, config, cases, alone, GetParam() + " on " + what);
  }
};

TEST_P(RealModels, OnEveryBackend) {
  const bool is_first = GetParam() == "llama";  // the other families go through the same operations: a sample is enough for them
  if (is_first) expect_deterministic(*make_reference_ops(), "reference");
  for (const CpuIsa isa : available_cpu_isas()) {
    for (const int num_threads : is_first ? std::vector{1, 3} : std::vector{2}) {
      const auto ops = make_cpu_ops({.num_threads = num_threads, .isa = isa});
      expect_deterministic(*ops, ops->description());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, RealModels, ::testing::Values("llama", "mistral", "qwen2", "qwen3", "opt"),
                         [](const ::testing::TestParamInfo<std::string>& variant) { return variant.param; });

}  // namespace
}  // namespace gossamer
