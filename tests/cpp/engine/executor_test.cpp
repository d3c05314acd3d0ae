// Logits that a decode step computed are given out once, and only to who asks for them in its order.
#include "engine/executor.h"

#include <gtest/gtest.h>

#include "support/recording_ops.h"
#include "support/tiny_model.h"

namespace gossamer {
namespace {

using Rows = std::vector<std::int32_t>;

class ExecutorTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kSequences = 3;

  // Three sequences, one token a step: what the rows asked for after each step hold.
  std::vector<std::vector<float>> logits(Ops& ops, bool heads_in_step, const std::vector<std::vector<Rows>>& asked) {
    Executor executor(ops, *comm_, *model_,
                      {.max_num_seqs = 4,
                       .max_num_batched_tokens = 8,
                       .max_model_len = 16,
                       .num_blocks = 12,
                       .block_size = 4,
                       .heads_in_step = heads_in_step});
    const Rows blocks[kSequences] = {{0, 3}, {1, 4}, {2, 5}};
    std::vector<std::vector<float>> found;
    for (std::size_t step = 0; step < asked.size(); ++step) {
      Rows tokens;
      std::vector<StepPart> parts;
      for (std::int64_t s = 0; s < kSequences; ++s)
        tokens.push_back(static_cast<std::int32_t>(7 * static_cast<std::int64_t>(step) + 5 * s));
      for (std::size_t s = 0; s < kSequences; ++s) {
        parts.push_back({.begin = static_cast<std::int64_t>(step), .tokens = std::span(tokens).subspan(s, 1), .blocks = blocks[s]});
      }
      executor.forward(parts);
      for (const Rows& rows : asked[step]) {
        const Tensor given = executor.logits(rows);
        found.push_back(testing::to_floats(given));
        std::fill_n(given.data<float>(), given.numel(), -1.0F);  // as sampling may
      }
    }
    return found;
  }

  std::unique_ptr<Ops> ops_ = make_cpu_ops({.num_threads = 1, .isa = {}});
  std::unique_ptr<Communicator> comm_ = make_single_communicator();
  ThreadPool pool_{1};
  const testing::Files files_ = testing::write_checkpoint(testing::tiny_model("llama", 0.5, DType::bf16));
  std::unique_ptr<Model> model_ = load_model(testing::open_checkpoint(files_), *ops_, *comm_, pool_);
};

TEST_F(ExecutorTest, AnyRowsOfARecordedStepAreThoseOfAPlainOne) {
  const std::vector<std::vector<Rows>> asked{{{0, 1, 2}}, {{0, 1, 2}}, {{0, 1, 2}, {0, 1, 2}}, {{0, 1}}, {{2}}, {{2, 0}, {1}}, {}, {{0}}};
  const std::vector<std::vector<float>> expected = logits(*ops_, false, asked);
  for (const bool heads_in_step : {false, true}) {
    testing::RecordingOps recording(*ops_);
    EXPECT_EQ(logits(recording, heads_in_step, asked), expected) << heads_in_step;
    EXPECT_EQ(recording.num_replays(), std::ssize(asked) - 2);
  }
}

}  // namespace
}  // namespace gossamer
