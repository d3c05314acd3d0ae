// How requests and engines end: aborts, failures, closing, forks; and many callers at once.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>

#include "core/error.h"
#include "engine/engine_rig.h"

namespace gossamer {
namespace {

using std::chrono::milliseconds;

TEST(EngineLife, AbortsInEveryPhase) {
  Rig rig;
  Gate gate(rig.model);
  const RequestId prefill = rig.engine.submit(std::vector<std::int32_t>(100, 1), greedy(5));
  gate.await_arrival(1);
  const RequestId waiting = rig.engine.submit({2}, greedy(5));
  rig.engine.abort(waiting);  // before it began
  rig.engine.abort(prefill);  // in its first chunk
  rig.engine.abort(prefill);
  rig.engine.abort(12345);
  for (const RequestId id : {prefill, waiting}) {
    const auto deltas = rig.engine.wait(id, milliseconds(0));
    ASSERT_EQ(deltas.size(), 1U);
    EXPECT_TRUE(deltas[0].tokens.empty());
    EXPECT_EQ(deltas[0].finish_reason, FinishReason::abort);
    EXPECT_TRUE(rig.engine.finished(id));
    EXPECT_TRUE(rig.engine.wait(id, milliseconds(0)).empty());
  }
  gate.open();
  EXPECT_EQ(rig.run({1}, greedy(3))[0].tokens.size(), 3U);
  const EngineStats stats = rig.engine.stats();
  EXPECT_EQ(stats.requests_aborted, 2);
  EXPECT_EQ(stats.requests_finished, 1);
  rig.engine.release(prefill);
  EXPECT_TRUE(rig.engine.finished(prefill)) << "an unknown id is finished";
  EXPECT_THROW(rig.engine.wait(prefill, milliseconds(0)), InvalidArgument);
}

TEST(EngineLife, FinishSampleDropsWhatWasComputedBeyond) {
  Rig rig;
  Gate gate(rig.model);
  SamplingParams params = greedy(50);
  params.n = 2;
  params.logprobs = 0;
  const RequestId id = rig.engine.submit({1, 2}, params);
  for (int i = 0; i < 3; ++i) gate.pass();
  gate.await_arrival(4);
  const auto deltas = rig.engine.wait(id, milliseconds(0));
  ASSERT_EQ(deltas.size(), 2U);
  EXPECT_EQ(deltas[0].tokens.size(), 3U);
  gate.pass();
  gate.await_arrival(5);  // one more token that the caller has not seen
  rig.engine.finish_sample(id, 1, FinishReason::stop);
  rig.engine.finish_sample(id, 1, FinishReason::abort);
  EXPECT_THROW(rig.engine.finish_sample(id, 2, FinishReason::stop), InvalidArgument);
  EXPECT_THROW(rig.engine.finish_sample(id, 0, FinishReason::none), InvalidArgument);
  gate.open();
  const auto rest = collect(rig.engine, id, 2);
  EXPECT_EQ(rest[0].tokens.size(), 47U);
  EXPECT_EQ(rest[0].logprobs.size(), 47U);
  EXPECT_EQ(rest[0].reason, FinishReason::length);
  EXPECT_TRUE(rest[1].tokens.empty());
  EXPECT_EQ(rest[1].reason, FinishReason::stop);
}

TEST(EngineLife, WaitReturnsEmptyAtItsTimeout) {
  Rig rig;
  Gate gate(rig.model);
  const RequestId id = rig.engine.submit({1}, greedy(1));
  EXPECT_TRUE(rig.engine.wait(id, milliseconds(20)).empty());
  EXPECT_FALSE(rig.engine.finished(id));
  gate.open();
  EXPECT_EQ(collect(rig.engine, id)[0].tokens.size(), 1U);
}

TEST(EngineLife, DiesOfItsOwnFaultsAndSaysWhy) {
  Rig rig;
  std::atomic<bool> submitted{false};
  rig.model.on_forward = [&](std::int64_t step) {
    while (!submitted) std::this_thread::yield();
    if (step == 3) throw InternalError("planted fault");
  };
  const RequestId id = rig.engine.submit({1}, greedy(10));
  const RequestId other = rig.engine.submit({2}, greedy(10));
  submitted = true;
  for (const RequestId each : {id, other}) {
    try {
      collect(rig.engine, each);
      FAIL();
    } catch (const EngineDeadError& error) {
      EXPECT_NE(std::string(error.what()).find("planted fault"), std::string::npos);
    }
  }
  EXPECT_THROW(rig.engine.submit({1}, greedy(1)), EngineDeadError);
  EXPECT_THROW(rig.engine.calibrate({{1}}, {}), EngineDeadError);
  rig.engine.abort(id);
  rig.engine.release(id);
  rig.engine.close();
}

TEST(EngineLife, RunningOutOfMemoryFailsWhatRunsAndNothingElse) {
  Rig rig;
  const SampleText alone = rig.run({1, 2}, greedy(10))[0];
  std::atomic<bool> fails{true};
  rig.model.on_forward = [&](std::int64_t) {
    if (fails.exchange(false)) throw OutOfMemoryError(1 << 20, 0, "host", "planted");
  };
  const RequestId id = rig.engine.submit({1}, greedy(10));
  EXPECT_THROW(collect(rig.engine, id), OutOfMemoryError);
  EXPECT_TRUE(rig.run({1, 2}, greedy(10))[0] == alone);
  EXPECT_EQ(rig.engine.stats().free_blocks, small_config().num_blocks);
}

TEST(EngineLife, CloseAbortsWhatRunsAndWakesWaiters) {
  Rig rig;
  rig.model.on_forward = [](std::int64_t) { std::this_thread::sleep_for(milliseconds(1)); };
  const RequestId id = rig.engine.submit({1}, greedy(190));
  FinishReason reason = FinishReason::none;
  std::thread waiter([&] {
    try {
      while (reason == FinishReason::none) {
        for (const SampleDelta& delta : rig.engine.wait(id, milliseconds(5000))) reason = delta.finish_reason;
      }
    } catch (const InvalidArgument&) {
      reason = FinishReason::abort;  // closed between two waits
    }
  });
  std::this_thread::sleep_for(milliseconds(10));
  rig.engine.close();
  waiter.join();
  EXPECT_EQ(reason, FinishReason::abort);
  rig.engine.close();
  EXPECT_THROW(rig.engine.submit({1}, greedy(1)), InvalidArgument);
  EXPECT_THROW(rig.engine.wait(id, milliseconds(0)), InvalidArgument);
  rig.engine.abort(id);
  rig.engine.release(id);
}

TEST(EngineLife, CalibratesAloneAndCountsEveryTokenOnce) {
  EngineConfig config = small_config();
  config.num_blocks = 20;
  config.max_model_len = 80;
  Rig rig(config);
  const SampleText alone = rig.run({1, 2}, greedy(30))[0];
  std::vector<std::vector<std::int32_t>> sequences;
  double sum = 0;
  std::int64_t count = 0;
  for (std::int32_t i = 0; i < 30; ++i) {
    sequences.emplace_back(static_cast<std::size_t>(1 + i * 2), i);
    sum += double{1.0} * (1 + i * 2) * i * i;
    count += 1 + i * 2;
  }
  const RequestId before = rig.engine.submit({1, 2}, greedy(30));
  std::int64_t last_done = 0;
  const Calibration calibration = rig.engine.calibrate(sequences, [&](std::int64_t done) {
    EXPECT_GE(done, last_done);
    last_done = done;
  });
  EXPECT_EQ(last_done, 30);
  EXPECT_EQ(calibration.num_tokens, count);
  ASSERT_EQ(calibration.sum_squares.size(), 2U);
  for (const char* name : {"layers.0.q", "layers.0.k"}) {
    EXPECT_EQ(calibration.sum_squares.at(name), (std::vector<double>{sum, static_cast<double>(count)}));
  }
  EXPECT_TRUE(collect(rig.engine, before)[0] == alone);
  EXPECT_TRUE(rig.run({1, 2}, greedy(30))[0] == alone);
  EXPECT_THROW(rig.engine.calibrate({std::vector<std::int32_t>(81, 1)}, {}), ContextLengthError);
  EXPECT_THROW(rig.engine.calibrate({{}}, {}), InvalidArgument);
  EXPECT_EQ(rig.engine.calibrate({}, {}).num_tokens, 0);
}

TEST(EngineLife, CalibrationEndsWhenItsPollThrows) {
  Rig rig;
  rig.model.on_forward = [](std::int64_t) { std::this_thread::sleep_for(milliseconds(5)); };
  const std::vector<std::vector<std::int32_t>> sequences(200, std::vector<std::int32_t>(100, 1));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THROW(rig.engine.calibrate(sequences, [](std::int64_t) { throw std::runtime_error("interrupted"); }), std::runtime_error);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  EXPECT_EQ(rig.run({1, 2}, greedy(3))[0].tokens.size(), 3U);
}

TEST(EngineLife, RefusesAForkedChild) {
  Rig rig;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    int code = 1;
    try {
      rig.engine.submit({1}, greedy(1));
    } catch (const EngineDeadError&) {
      code = 2;
    } catch (const Error& error) {
      code = std::string(error.what()).find("use spawn") != std::string::npos ? 0 : 3;
    }
    ::_exit(code);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(rig.run({1}, greedy(2))[0].tokens.size(), 2U) << "the parent is unharmed";
}

TEST(EngineLife, ClosingEndsACalibration) {
  Rig rig;
  rig.model.on_forward = [](std::int64_t) { std::this_thread::sleep_for(milliseconds(2)); };
  const std::vector<std::vector<std::int32_t>> sequences(500, std::vector<std::int32_t>(100, 1));
  std::thread closer([&] {
    std::this_thread::sleep_for(milliseconds(20));
    rig.engine.close();
  });
  EXPECT_THROW(rig.engine.calibrate(sequences, {}), InvalidArgument);
  closer.join();
}

// Many callers at once; for ThreadSanitizer as much as for the results.
TEST(EngineLife, ServesManyThreads) {
  EngineConfig config = small_config();
  config.num_blocks = 40;
  Rig rig(config);
  std::vector<SampleText> expected;
  for (std::int32_t i = 0; i < 8; ++i) expected.push_back(rig.run({i, i + 1}, greedy(40))[0]);
  std::vector<std::thread> threads;
  std::atomic<int> num_wrong{0};
  for (std::int32_t t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<std::uint32_t>(t));
      for (int round = 0; round < 20; ++round) {
        const RequestId id = rig.engine.submit({t, t + 1}, greedy(40));
        if (random() % 4 == 0) {
          rig.engine.wait(id, milliseconds(random() % 3));
          rig.engine.abort(id);
        } else if (!(collect(rig.engine, id)[0] == expected[static_cast<std::size_t>(t)])) {
          ++num_wrong;
        }
        rig.engine.stats();
        rig.engine.release(id);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_wrong, 0);
  rig.run({1}, greedy(1));
  const EngineStats stats = rig.engine.stats();
  EXPECT_EQ(stats.free_blocks, 40);
  EXPECT_EQ(stats.running + stats.waiting, 0);
  EXPECT_GT(stats.preemptions, 0);
}

}  // namespace
}  // namespace gossamer
