// What load_model reads, keeps, counts and refuses.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/faults.h"
#include "support/tiny_model.h"

namespace gossamer {
namespace {

using namespace gossamer::testing;

class WeightLoading : public ::testing::Test {
 protected:
  std::unique_ptr<Model> load(const Files& files, const LoadOptions& options = {}) {
    return load_model(open_checkpoint(files), *ops_, *comm_, pool_, options);
  }

  ThreadPool pool_{1};
  std::unique_ptr<Ops> ops_ = make_reference_ops();
  std::unique_ptr<Communicator> comm_ = make_single_communicator();
};

std::int64_t numel(const TinyModel& model) {
  std::int64_t total = 0;
  for (const auto& [name, tensor] : model.tensors) total += product(tensor.shape);
  return total;
}

TEST_F(WeightLoading, CountsDenseBytesExactly) {
  for (const char* variant : {"llama", "qwen3", "opt", "opt_350m"}) {
    const TinyModel model = tiny_model(variant);
    const WeightStats stats = load(write_checkpoint(model))->stats();
    EXPECT_EQ(stats.num_parameters, numel(model)) << variant;
    // The reference keeps dense weights as they are, and a tied head is the embedding's own table.
    EXPECT_EQ(stats.weight_bytes, 4 * numel(model)) << variant;
    EXPECT_EQ(stats.sparse_elements, 0) << variant;
  }
}

TEST_F(WeightLoading, ResidentBytesAreTheAllocatorsButForTheRopeTables) {
  const std::int64_t before = ops_->allocator().live_bytes();
  const auto model = load(write_checkpoint(tiny_model("llama_tied_bias")));
  const std::int64_t rope = 2 * 64 * 4 * 4;  // cos and sin, f32 [max_positions, head_dim / 2]
  EXPECT_EQ(ops_->allocator().live_bytes() - before, model->stats().weight_bytes + rope);
}

TEST_F(WeightLoading, CountsZerosOfSparseLinears) {
  const TinyModel model = tiny_model("llama", 0.3);
  std::int64_t elements = 0, zeros = 0;
  for (const auto& [name, tensor] : model.tensors) {
    if (!tensor.sparse) continue;
    elements += product(tensor.shape);
    zeros += std::count(tensor.values.begin(), tensor.values.end(), 0.0F);
  }
  const WeightStats stats = load(write_checkpoint(model))->stats();
  EXPECT_EQ(stats.sparse_elements, elements);
  EXPECT_EQ(stats.sparse_zeros, zeros);
  EXPECT_GT(zeros, elements / 2);
  EXPECT_EQ(stats.num_parameters, numel(model));
}

TEST_F(WeightLoading, RefusesMissingExtraAndMisshapenTensorsBeforeReadingAny) {
  TinyModel model = tiny_model("llama");
  model.tensors.erase("model.layers.1.mlp.up_proj.weight");
  model.tensors["model.layers.0.self_attn.q_proj.bias"] = {.shape = {32}, .values = std::vector<float>(32, 1.0F)};
  model.config["intermediate_size"] = 39;
  bool read = false;
  try {
    load(write_checkpoint(model), {.progress = [&](std::int64_t, std::int64_t) { read = true; }});
    FAIL() << "loaded";
  } catch (const CheckpointError& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("model.layers.1.mlp.up_proj.weight"), std::string::npos) << what;
    EXPECT_NE(what.find("model.layers.0.self_attn.q_proj.bias"), std::string::npos) << what;
    EXPECT_NE(what.find("model.layers.2.mlp.gate_proj.weight"), std::string::npos) << what;
  }
  EXPECT_FALSE(read);
}

TEST_F(WeightLoading, RefusesMoreRanksThanFit) {
  class ThreeRanks final : public Communicator {
   public:
    int rank() const override { return 0; }
    int size() const override { return 3; }
    void all_reduce_sum(Ops&, const Tensor&) override {}
    void all_gather_last(Ops&, const Tensor&, const Tensor&) override {}
    void broadcast(Ops&, const Tensor&, int) override {}
    void barrier() override {}
  } three;
  const Files files = write_checkpoint(tiny_model("llama"));
  EXPECT_THROW(load_model(open_checkpoint(files), *ops_, three, pool_, {}), InvalidArgument);
}

TEST_F(WeightLoading, ReportsProgressUpToTheTotal) {
  const Files files = write_checkpoint(tiny_model("llama", 0.5));
  std::int64_t last = 0, total = 0;
  int calls = 0;
  load(files, {.progress = [&](std::int64_t done, std::int64_t of) {
         EXPECT_GT(done, last);
         last = done;
         total = of;
         ++calls;
       }});
  EXPECT_EQ(last, total);
  EXPECT_GT(calls, 20);
  const auto cancel = [](std::int64_t done, std::int64_t) {
    if (done > 10'000) throw InvalidArgument("cancelled");
  };
  const std::int64_t before = ops_->allocator().live_bytes();
  EXPECT_THROW(load(files, {.progress = cancel}), InvalidArgument);
  EXPECT_EQ(ops_->allocator().live_bytes(), before);
}

TEST_F(WeightLoading, AFailedAllocationLeavesNothingBehind) {
  const Files files = write_checkpoint(tiny_model("opt_350m", 0.5));
  for (const auto mode : {FaultPoint::Mode::once, FaultPoint::Mode::from_then_on}) {
    FaultPoint point;
    FailingAllocator allocator(point);
    const auto ops = make_reference_ops(&allocator);
    const std::int64_t blocks = allocator.live_blocks();
    const std::int64_t failed = fail_each_call<OutOfMemoryError>(
        point, mode, [&] { load_model(open_checkpoint(files), *ops, *comm_, pool_, {}); },
        [&](std::int64_t k, const OutOfMemoryError&) { EXPECT_EQ(allocator.live_blocks(), blocks) << "call " << k; });
    EXPECT_GT(failed, 20);
  }
}

TEST_F(WeightLoading, RopeTablesCanStopAtTheContextInUse) {
  const Files files = write_checkpoint(tiny_model("llama"));
  const std::int64_t before = ops_->allocator().live_bytes();
  const auto whole = load(files);
  const std::int64_t all = ops_->allocator().live_bytes() - before;
  const auto shorter = load(files, {.max_positions = 16});
  EXPECT_EQ(all - (ops_->allocator().live_bytes() - before - all), 2 * (64 - 16) * 4 * 4);
}

// Sees each linear once per layer, in order, with its own input.
TEST_F(WeightLoading, ObserverSeesEveryLinear) {
  class Recorder final : public LinearObserver {
   public:
    void observe(std::span<const std::string> names, Ops&, const Tensor& input) override {
      for (const std::string& name : names) seen[name] += input.size(0) * input.size(1);
    }
    std::map<std::string, std::int64_t> seen;  // elements of input
  } recorder;
  const TinyModel model = tiny_model("qwen3", 0.5);
  const Files files = write_checkpoint(model);
  Session session(open_checkpoint(files), *ops_, *comm_);
  session.run({random_tokens(5, 1)}, {{0, 0, 5}}, &recorder);
  for (const auto& [name, tensor] : model.tensors) {
    if (tensor.shape.size() == 2) {
      EXPECT_EQ(recorder.seen[name], 5 * tensor.shape[1]) << name;
    }
  }
}

}  // namespace
}  // namespace gossamer
