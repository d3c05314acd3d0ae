// Allocation: none in steady decode; every one that fails is survived.
#include <gtest/gtest.h>

#include <new>
#include <optional>

#include "engine/engine_rig.h"
#include "support/counting_new.h"
#include "support/tiny_model.h"

namespace gossamer {
namespace {

using testing::FailingAllocator;
using testing::FaultPoint;

std::unique_ptr<Sequence> sequence_of(SequenceId id, const SamplingParams& params, std::int64_t max_tokens) {
  static const std::vector<std::int32_t> prompt = {1, 2, 3};
  const SequenceSpec spec{.prompt = prompt, .params = params, .max_tokens = max_tokens, .seed = id, .eos_ids = {}};
  return std::make_unique<Sequence>(make_sequence(spec, id, 0));
}

// Everything but a block table's growth: the block manager doubles a table's room when it is full.
void expect_no_allocation_in_decode(Ops& ops, const Model& model, bool runs_ahead, const std::string& what) {
  EngineConfig config = small_config();
  config.runs_ahead = runs_ahead;
  config.max_model_len = 60;
  config.check_invariants = false;
  const auto comm = make_single_communicator();
  EngineCore core(ops, *comm, model, config);
  SamplingParams params;
  if (!runs_ahead) params.repetition_penalty = 1.2;
  params.logprobs = 5;
  params.logit_bias = {{3, 1.0}};
  params.top_p = 0.9;
  for (SequenceId id = 1; id <= 8; ++id) core.add(sequence_of(id, params, 50));
  for (int step = 0; step < 15; ++step) core.step();  // 18 tokens: 5 blocks of the 8 that a table has room for

  const std::int64_t device_before = ops.allocator().total_allocations();
  FaultPoint point;
  point.disarm();
  const std::int64_t calls_before = point.calls();
  {
    const testing::NewHook hook(point);
    for (int step = 0; step < 12; ++step) {
      EXPECT_EQ(core.step().num_decode_tokens, 8);
    }
  }
  EXPECT_EQ(point.calls() - calls_before, 0) << what << ": operator new in steady decode";
  EXPECT_EQ(ops.allocator().total_allocations(), device_before) << what << ": device memory in steady decode";
}

TEST(Memory, DecodeAllocatesNothing) {
  const auto reference = make_reference_ops();
  for (const bool ahead : {false, true}) expect_no_allocation_in_decode(*reference, testing::FakeModel(), ahead, "engine");
  const testing::Files files = testing::write_checkpoint(testing::tiny_model("llama", 0.5, DType::bf16));
  const auto comm = make_single_communicator();
  ThreadPool pool(1);
  for (const CpuIsa isa : available_cpu_isas()) {
    const auto ops = make_cpu_ops({.num_threads = 2, .isa = isa});
    const auto model = load_model(testing::open_checkpoint(files), *ops, *comm, pool);
    for (const bool ahead : {false, true}) expect_no_allocation_in_decode(*ops, *model, ahead, ops->description());
  }
}

TEST(Memory, TheHookCountsAndFails) {
  FaultPoint point;
  point.arm(2, FaultPoint::Mode::once);
  bool failed = false;
  {
    const testing::NewHook hook(point);
    try {
      for (int i = 0; i < 2; ++i) ::operator delete(::operator new(8));
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  }
  EXPECT_TRUE(failed);
  EXPECT_EQ(point.calls(), 2);
}

struct Loaded {
  std::unique_ptr<Ops> ops;
  std::unique_ptr<Communicator> comm = make_single_communicator();
  std::unique_ptr<Model> model;
  std::optional<Engine> engine;

  Loaded(Allocator& allocator, const testing::Files& files, bool reference) {
    ops = reference ? make_reference_ops(&allocator) : make_cpu_ops({.num_threads = 2, .isa = {}}, &allocator);
    ThreadPool pool(1);
    model = load_model(testing::open_checkpoint(files), *ops, *comm, pool);
    EngineConfig config = small_config();
    config.max_model_len = 60;
    engine.emplace(*ops, *comm, *model, config);
  }
};

SampleText generate(Engine& engine) {
  SamplingParams params = greedy(20);
  params.logprobs = 2;
  const RequestId id = engine.submit({1, 2, 3}, params);
  SampleText text = collect(engine, id)[0];
  engine.release(id);
  return text;
}

SampleText load_and_generate(Allocator& allocator, const testing::Files& files, bool reference) {
  Loaded loaded(allocator, files, reference);
  return generate(*loaded.engine);
}

// A1: the k-th allocation of device memory fails, while loading or generating.
TEST(Memory, SurvivesEveryFailedDeviceAllocation) {
  const testing::Files files = testing::write_checkpoint(testing::tiny_model("llama", 0.5, DType::bf16));
  for (const bool reference : {true, false}) {
    HostAllocator host;
    const SampleText expected = load_and_generate(host, files, reference);
    for (const FaultPoint::Mode mode : {FaultPoint::Mode::once, FaultPoint::Mode::from_then_on}) {
      FaultPoint point;
      FailingAllocator allocator(point);
      const std::int64_t num_failed = testing::fail_each_call<OutOfMemoryError>(
          point, mode, [&] { EXPECT_TRUE(load_and_generate(allocator, files, reference) == expected); },
          [&](std::int64_t k, const OutOfMemoryError& error) {
            EXPECT_GT(error.wanted_bytes, 0U);
            EXPECT_EQ(allocator.live_bytes(), 0) << "after allocation " << k;
            EXPECT_EQ(allocator.live_blocks(), 0) << "after allocation " << k;
          });
      EXPECT_GT(num_failed, 20);
      EXPECT_EQ(allocator.live_bytes(), 0);
    }
  }
}

// The same for operator new, from submit() to the last token: the request may fail, the engine may not.
TEST(Memory, SurvivesEveryFailedHostAllocationOfARequest) {
  EngineConfig config = small_config();
  config.check_invariants = false;
  Rig rig(config);
  const SampleText expected = generate(rig.engine);
  for (const FaultPoint::Mode mode : {FaultPoint::Mode::once, FaultPoint::Mode::from_then_on}) {
    for (std::int64_t k = 1;; ++k) {
      ASSERT_LT(k, 10000);
      FaultPoint point;
      RequestId id = 0;
      bool failed = false;
      std::int64_t calls = 0;
      {
        point.arm(k, mode);
        const testing::NewHook hook(point);
        try {
          SamplingParams params = greedy(20);
          params.logprobs = 2;
          id = rig.engine.submit({1, 2, 3}, params);
          EXPECT_TRUE(collect(rig.engine, id)[0] == expected) << k;
        } catch (const std::bad_alloc&) {
          failed = true;
        }
        calls = point.calls();
        point.disarm();
        if (id != 0) rig.engine.release(id);
      }
      ASSERT_TRUE(generate(rig.engine) == expected) << "after allocation " << k;
      ASSERT_EQ(rig.engine.stats().free_blocks, config.num_blocks) << "after allocation " << k;
      if (calls < k) {
        EXPECT_FALSE(failed);
        EXPECT_GT(k, 10);
        break;
      }
    }
  }
  EXPECT_EQ(rig.engine.stats().running + rig.engine.stats().waiting, 0);
}

}  // namespace
}  // namespace gossamer
