#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "core/error.h"

namespace gossamer {
namespace {

SchedulerConfig config_of(std::int64_t num_blocks, std::int64_t block_size, std::int64_t max_seqs, std::int64_t max_tokens) {
  return {.num_blocks = num_blocks, .block_size = block_size, .max_num_seqs = max_seqs, .max_num_batched_tokens = max_tokens};
}

TEST(Scheduler, RunsAPromptThenOneTokenPerStep) {
  Scheduler scheduler(config_of(8, 4, 4, 16));
  scheduler.add(7, 5, 3);
  const Schedule& first = scheduler.schedule();
  ASSERT_EQ(first.chunks.size(), 1U);
  EXPECT_EQ(first.chunks[0].id, 7U);
  EXPECT_EQ(first.chunks[0].begin, 0);
  EXPECT_EQ(first.chunks[0].count, 5);
  EXPECT_TRUE(first.chunks[0].samples);
  EXPECT_TRUE(scheduler.commit().empty());
  const Schedule& second = scheduler.schedule();
  EXPECT_EQ(second.chunks.at(0).begin, 5);
  EXPECT_EQ(second.chunks.at(0).count, 1);
  EXPECT_TRUE(scheduler.commit().empty());
  scheduler.schedule();
  EXPECT_EQ(scheduler.commit(), std::vector<SequenceId>{7});
  EXPECT_FALSE(scheduler.has_work());
  EXPECT_EQ(scheduler.blocks().num_free(), 8);
}

TEST(Scheduler, CutsLongPromptsIntoChunksAndServesDecodesFirst) {
  Scheduler scheduler(config_of(64, 4, 4, 8));
  scheduler.add(1, 3, 10);
  scheduler.schedule();
  scheduler.commit();
  scheduler.add(2, 20, 1);
  std::int64_t computed = 0;
  for (const std::int64_t expected : {7, 7, 6}) {
    const Schedule& plan = scheduler.schedule();
    ASSERT_EQ(plan.chunks.size(), 2U);
    EXPECT_EQ(plan.chunks[0].id, 1U);
    EXPECT_EQ(plan.chunks[0].count, 1);
    EXPECT_EQ(plan.chunks[1].begin, computed);
    EXPECT_EQ(plan.chunks[1].count, expected);
    computed += expected;
    EXPECT_EQ(plan.chunks[1].samples, computed == 20);
    EXPECT_LE(plan.num_tokens, 8);
    scheduler.commit();
  }
}

TEST(Scheduler, AddsNewcomersWhileOthersDecode) {
  Scheduler scheduler(config_of(64, 4, 3, 16));
  for (SequenceId id = 1; id <= 5; ++id) scheduler.add(id, 4, 2);
  EXPECT_EQ(scheduler.schedule().chunks.size(), 3U);  // max_num_seqs
  EXPECT_EQ(scheduler.num_running(), 3);
  EXPECT_EQ(scheduler.num_waiting(), 2);
  EXPECT_TRUE(scheduler.commit().empty());
  scheduler.schedule();
  EXPECT_EQ(scheduler.commit().size(), 3U);
  EXPECT_EQ(scheduler.schedule().chunks.size(), 2U);
}

TEST(Scheduler, StopsASequenceWhoseTokenEndedIt) {
  Scheduler scheduler(config_of(8, 4, 4, 16));
  scheduler.add(1, 2, 26);
  scheduler.add(2, 2, 3);
  scheduler.schedule();
  const std::vector<SequenceId> stopped = {1};
  EXPECT_EQ(scheduler.commit(stopped), stopped);
  EXPECT_EQ(scheduler.schedule().chunks.at(0).id, 2U);
}

TEST(Scheduler, ScoresAPromptWithoutDrawing) {
  Scheduler scheduler(config_of(8, 4, 4, 4));
  scheduler.add(1, 6, 0);
  EXPECT_FALSE(scheduler.schedule().chunks.at(0).samples);
  EXPECT_TRUE(scheduler.commit().empty());
  EXPECT_FALSE(scheduler.schedule().chunks.at(0).samples);
  EXPECT_EQ(scheduler.commit().size(), 1U);
}

TEST(Scheduler, PreemptsTheYoungestAndComputesItAgain) {
  Scheduler scheduler(config_of(5, 2, 2, 16));
  scheduler.add(1, 2, 7);
  scheduler.add(2, 3, 4);
  EXPECT_EQ(scheduler.schedule().chunks.size(), 2U);  // 1 + 2 blocks used, 2 free
  scheduler.commit();
  scheduler.schedule();  // the first takes its second block
  scheduler.commit();
  scheduler.schedule();  // the second grows to a third block
  scheduler.commit();
  const Schedule& plan = scheduler.schedule();  // no block left for the first: the second gives way
  EXPECT_EQ(plan.preempted, std::vector<SequenceId>{2});
  ASSERT_EQ(plan.chunks.size(), 1U);
  EXPECT_EQ(plan.chunks[0].id, 1U);
  scheduler.check_invariants();
  EXPECT_EQ(scheduler.num_preemptions(), 1);
  scheduler.commit();
  while (scheduler.num_running() == 1) {
    scheduler.schedule();
    scheduler.commit();
  }
  const Schedule& again = scheduler.schedule();
  ASSERT_EQ(again.chunks.size(), 1U);
  EXPECT_EQ(again.chunks[0].id, 2U);
  EXPECT_EQ(again.chunks[0].begin, 0);
  EXPECT_EQ(again.chunks[0].count, 6);  // prompt and the three tokens drawn so far
  EXPECT_EQ(scheduler.commit(), std::vector<SequenceId>{2});
}

TEST(Scheduler, RejectsWhatCanNeverFit) {
  Scheduler scheduler(config_of(4, 4, 4, 16));
  EXPECT_THROW(scheduler.add(1, 17, 0), InvalidArgument);
  EXPECT_THROW(scheduler.add(1, 10, 8), InvalidArgument);
  EXPECT_THROW(scheduler.add(1, 1, INT64_MAX), InvalidArgument);
  EXPECT_THROW(scheduler.add(1, INT64_MAX, INT64_MAX), InvalidArgument);
  EXPECT_THROW(scheduler.add(1, 0, 1), InvalidArgument);
  EXPECT_THROW(scheduler.add(1, 1, -1), InvalidArgument);
  EXPECT_FALSE(scheduler.has_work());
  scheduler.add(1, 10, 7);  // the seventh is never an input
  EXPECT_THROW(scheduler.add(1, 1, 1), InvalidArgument);
  EXPECT_THROW(Scheduler(config_of(0, 4, 4, 16)), InvalidArgument);
  EXPECT_THROW(Scheduler(config_of(4, 0, 4, 16)), InvalidArgument);
  EXPECT_THROW(Scheduler(config_of(4, 4, 0, 16)), InvalidArgument);
  EXPECT_THROW(Scheduler(config_of(4, 4, 17, 16)), InvalidArgument);
}

TEST(Scheduler, AbortsAtAnyTimeAndIdempotently) {
  Scheduler scheduler(config_of(16, 4, 4, 4));
  scheduler.add(1, 10, 3);
  scheduler.add(2, 3, 3);
  scheduler.abort(99);
  scheduler.schedule();
  scheduler.abort(1);  // in prefill, with the step open
  scheduler.abort(1);
  scheduler.check_invariants();
  EXPECT_EQ(scheduler.blocks().num_free(), 16);
  EXPECT_TRUE(scheduler.commit().empty());
  EXPECT_EQ(scheduler.schedule().chunks.at(0).id, 2U);
  scheduler.abort(2);
  scheduler.commit();
  scheduler.abort(2);
  EXPECT_FALSE(scheduler.has_work());
}

TEST(Scheduler, WantsOneCommitPerSchedule) {
  Scheduler scheduler(config_of(16, 4, 4, 4));
  EXPECT_THROW(scheduler.commit(), InternalError);
  scheduler.schedule();
  EXPECT_THROW(scheduler.schedule(), InternalError);
}

// A random trace against a model that knows only what a caller may rely on.
struct Expected {
  std::int64_t prompt_len, max_tokens;
  std::int64_t output = 0;
  std::int64_t computed = 0;
  std::int64_t steps_as_oldest = 0;
};

class Trace {
 public:
  Trace(const SchedulerConfig& config, std::uint32_t seed) : config_(config), scheduler_(config), random_(seed) {}

  void run(int num_steps) {
    for (int i = 0; i < num_steps; ++i) {
      if (draw(0, 2) == 0) add();
      if (draw(0, 19) == 0) abort();
      step();
      if (testing::Test::HasFatalFailure()) return;
    }
    for (int i = 0; i < 100000 && scheduler_.has_work(); ++i) step();
    EXPECT_TRUE(live_.empty()) << "the scheduler does not drain";
    EXPECT_EQ(scheduler_.blocks().num_free(), config_.num_blocks);
    EXPECT_EQ(scheduler_.num_running() + scheduler_.num_waiting(), 0);
  }
  std::int64_t num_preemptions() const { return scheduler_.num_preemptions(); }

 private:
  std::int64_t draw(std::int64_t low, std::int64_t high) { return std::uniform_int_distribution<std::int64_t>(low, high)(random_); }

  void add() {
    const std::int64_t capacity = config_.num_blocks * config_.block_size;
    const std::int64_t prompt_len = draw(0, 3) == 0 ? draw(1, capacity + 2) : draw(1, 2 * config_.block_size);
    const std::int64_t max_tokens = draw(0, capacity);
    const SequenceId id = ++last_id_;
    if (prompt_len + std::max<std::int64_t>(max_tokens - 1, 0) > capacity) {
      EXPECT_THROW(scheduler_.add(id, prompt_len, max_tokens), InvalidArgument);
    } else {
      scheduler_.add(id, prompt_len, max_tokens);
      live_[id] = {prompt_len, max_tokens};
    }
    scheduler_.check_invariants();
  }

  void abort() {
    const SequenceId id = static_cast<SequenceId>(draw(0, static_cast<std::int64_t>(last_id_) + 1));
    scheduler_.abort(id);
    live_.erase(id);
    scheduler_.check_invariants();
  }

  void check_plan(const Schedule& plan) {
    std::int64_t num_tokens = 0;
    for (const SequenceId id : plan.preempted) {
      ASSERT_TRUE(live_.contains(id));
      live_[id].computed = 0;
    }
    for (const Chunk& chunk : plan.chunks) {
      ASSERT_TRUE(live_.contains(chunk.id));
      const Expected& sequence = live_[chunk.id];
      ASSERT_EQ(chunk.begin, sequence.computed) << "a gap or a repetition";
      ASSERT_GE(chunk.count, 1);
      const bool is_last = chunk.begin + chunk.count == sequence.prompt_len + sequence.output;
      ASSERT_LE(chunk.begin + chunk.count, sequence.prompt_len + sequence.output);
      ASSERT_EQ(chunk.samples, is_last && sequence.max_tokens > 0);
      ASSERT_GE(std::ssize(scheduler_.blocks().table(chunk.id)) * config_.block_size, chunk.begin + chunk.count);
      num_tokens += chunk.count;
    }
    ASSERT_EQ(plan.num_tokens, num_tokens);
    ASSERT_LE(num_tokens, config_.max_num_batched_tokens);
    ASSERT_LE(std::ssize(plan.chunks), config_.max_num_seqs);
    if (live_.empty()) return;
    const SequenceId oldest = live_.begin()->first;
    ASSERT_TRUE(std::any_of(plan.chunks.begin(), plan.chunks.end(), [&](const Chunk& c) { return c.id == oldest; }))
        << "the oldest sequence did not advance";
  }

  void step() {
    const Schedule& plan = scheduler_.schedule();
    scheduler_.check_invariants();
    check_plan(plan);
    if (testing::Test::HasFatalFailure()) return;
    const std::vector<Chunk> chunks = plan.chunks;
    if (draw(0, 9) == 0) abort();  // while the step runs
    std::vector<SequenceId> stopped;
    std::vector<SequenceId> over;
    for (const Chunk& chunk : chunks) {
      const auto found = live_.find(chunk.id);
      if (found == live_.end()) continue;
      Expected& sequence = found->second;
      sequence.computed += chunk.count;
      if (chunk.samples) ++sequence.output;
      const bool stops = chunk.samples && draw(0, 39) == 0;
      if (stops) stopped.push_back(chunk.id);
      const bool is_out = sequence.output == sequence.max_tokens && sequence.computed >= sequence.prompt_len;
      if (stops || is_out) {
        over.push_back(chunk.id);
        live_.erase(found);
      }
    }
    ASSERT_EQ(scheduler_.commit(stopped), over);
    scheduler_.check_invariants();
    ASSERT_EQ(scheduler_.num_running() + scheduler_.num_waiting(), std::ssize(live_));
  }

  SchedulerConfig config_;
  Scheduler scheduler_;
  std::mt19937 random_;
  std::map<SequenceId, Expected> live_;
  SequenceId last_id_ = 0;
};

TEST(SchedulerTraces, KeepTheirInvariants) {
  std::int64_t num_preemptions = 0;
  std::mt19937 random(20261122);
  for (std::uint32_t seed = 0; seed < 1000; ++seed) {
    const auto draw = [&](std::int64_t low, std::int64_t high) { return std::uniform_int_distribution<std::int64_t>(low, high)(random); };
    const std::int64_t max_seqs = draw(1, 8);
    const SchedulerConfig config = config_of(draw(1, 24), draw(1, 5), max_seqs, draw(max_seqs, 40));
    SCOPED_TRACE(testing::Message() << "seed " << seed << ", blocks " << config.num_blocks << " x " << config.block_size << ", seqs "
                                    << config.max_num_seqs << ", tokens " << config.max_num_batched_tokens);
    Trace trace(config, seed);
    trace.run(100);
    if (HasFatalFailure()) return;
    num_preemptions += trace.num_preemptions();
  }
  EXPECT_GT(num_preemptions, 1000) << "the traces are too easy";
}

// Everyone wants the whole pool: each preemption is caused by an older sequence taking a block, so their number is bounded.
TEST(SchedulerTraces, DoNotLivelockWhenAllCompete) {
  Scheduler scheduler(config_of(8, 2, 4, 16));
  for (SequenceId id = 1; id <= 12; ++id) scheduler.add(id, 1, 16);
  std::vector<SequenceId> order;
  std::int64_t steps = 0;
  while (scheduler.has_work()) {
    scheduler.schedule();
    for (const SequenceId id : scheduler.commit()) order.push_back(id);
    scheduler.check_invariants();
    ASSERT_LT(++steps, 12 * 17);
  }
  EXPECT_EQ(order, (std::vector<SequenceId>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}));
  EXPECT_LE(scheduler.num_preemptions(), 12 * 8);
}

}  // namespace
}  // namespace gossamer
