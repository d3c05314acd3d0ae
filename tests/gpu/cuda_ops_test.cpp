// The verbs of the CUDA backend: the cases that every backend passes, in both half types, and what only a GPU has.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <tuple>
#include <vector>

#include "cuda_backend.h"
#include "support/ops_cases.h"

namespace gossamer {
namespace {

using namespace gossamer::testing;

constexpr const char* kCandidates[] = {"pack"};

std::vector<OpsCase> cases() {
  std::vector<OpsCase> all = all_ops_cases();
  all.push_back({"SampleRowsStandAlone", sample_rows_stand_alone});
  return all;
}

class CudaOpsCases : public ::testing::TestWithParam<std::tuple<DType, OpsCase>> {
 protected:
  void SetUp() override {
    if (const std::string reason = why_no_gpu(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

TEST_P(CudaOpsCases, MatchesTheFormula) {
  const auto& [act, ops_case] = GetParam();
  const std::unique_ptr<Ops> ops = make_gpu_ops(act);
  ops_case.run(*ops);
}

// The same with every code path that is not the default yet.
TEST_P(CudaOpsCases, CandidatesMatchTheFormula) {
  const auto& [act, ops_case] = GetParam();
  const std::unique_ptr<Ops> ops = make_gpu_ops(act);
  for (const char* candidate : kCandidates) ops->select_candidate(candidate);
  ops_case.run(*ops);
}

INSTANTIATE_TEST_SUITE_P(Halves, CudaOpsCases, ::testing::Combine(::testing::Values(DType::f16, DType::bf16), ::testing::ValuesIn(cases())),
                         [](const auto& info) {
                           return std::string(name_of(std::get<0>(info.param))) + "_" + std::get<1>(info.param).name;
                         });

// Prompts, chunks of them and decodes side by side.
void check_prompts(Ops& ops, DType act) {
  unsigned seed = 800;
  for (const std::int64_t group : {1, 4}) {
    for (const std::int64_t head_dim : {16, 64, 80, 128}) {
      for (const std::int64_t window : {0, 70}) {
        AttentionCase c{.sequences = {{33, 1}, {270, 1}, {200, 200}, {65, 65}, {300, 17}, {90, 1}, {3, 3}, {200, 130}},
                        .num_heads = 2 * group,
                        .num_kv_heads = 2};
        c.head_dim = head_dim;
        c.block_size = 16;
        c.window = window;
        c.kv_dtype = act;
        check_attention(ops, c, seed++);
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

class CudaOps : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (const std::string reason = why_no_gpu(); !reason.empty()) GTEST_SKIP() << reason;
    ops_ = make_gpu_ops(GetParam());
  }
  std::unique_ptr<Ops> ops_;
};

// Batches beyond the SpMM's: the weight is expanded and multiplied densely.
TEST_P(CudaOps, ManyTokens) {
  unsigned seed = 500;
  for (const std::int64_t n : {96, 97, 200}) {
    for (const std::int64_t k : {64, 200, 203}) {
      for (const double sparsity : {-1.0, 0.0, 0.6, 1.0}) {
        for (const Activation activation : {Activation::none, Activation::relu, Activation::gelu}) {
          LinearCase c{.n = n, .k = k, .m = 130, .weight_dtype = GetParam(), .sparsity = sparsity, .activation = activation};
          c.bias = seed % 2 == 0;
          c.residual = seed % 3 == 0;
          c.f32_out = seed % 5 == 0;
          check_linear(*ops_, c, seed++);
          if (HasFailure()) return;
        }
      }
    }
  }
}

// Contexts of several splits, with and without a window, heads by groups of each size, through the fast kernels (the KV cache holds
// activations).
TEST_P(CudaOps, LongContexts) {
  unsigned seed = 700;
  for (const std::int64_t group : {1, 2, 3, 4, 8, 16}) {
    for (const std::int64_t head_dim : {64, 80, 128, 256}) {
      for (const std::int64_t window : {0, 300}) {
        AttentionCase c{.sequences = {{1100, 1}, {256, 1}, {257, 1}, {1, 1}, {513, 1}}, .num_heads = 2 * group, .num_kv_heads = 2};
        c.head_dim = head_dim;
        c.block_size = 16;
        c.window = window;
        c.kv_dtype = GetParam();
        check_attention(*ops_, c, seed++);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(CudaOps, Prompts) { check_prompts(*ops_, GetParam()); }

// With a prompt cut into chunks, each row's bits are the same. Chunks of at least five queries: fewer go to the decode kernel.
TEST_P(CudaOps, ChunksOfPromptsGiveTheSameBits) {
  for (const std::int64_t window : {0, 90}) {
    AttentionCase c{.sequences = {{300, 240}}, .num_heads = 4, .num_kv_heads = 2};
    c.head_dim = 64;
    c.block_size = 16;
    c.kv_dtype = GetParam();
    const AttentionProblem p(*ops_, c, 17);
    const AttentionParams params{.scale = 0.2F, .sliding_window = window};
    const Shape shape{p.num_tokens, c.num_heads, c.head_dim};
    const TestTensor whole = TestTensor::poisoned(*ops_, GetParam(), shape), chunked = TestTensor::poisoned(*ops_, GetParam(), shape);
    ops_->attention(whole, *p.q, p.kv(), p.batch, params);
    for (std::int64_t begin = 0; begin < 240; begin += 40) {
      const IntTensor start(*ops_, {0, 40}), length(*ops_, {static_cast<std::int32_t>(60 + begin + 40)});
      Batch batch = p.batch;
      batch.num_tokens = batch.max_query_len = 40;
      batch.max_context_len = 60 + begin + 40;
      batch.query_start = start;
      batch.context_len = length;
      ops_->attention(chunked.view().rows(begin, begin + 40), p.q->view().rows(begin, begin + 40), p.kv(), batch, params);
    }
    EXPECT_EQ(chunked.read(), whole.read()) << "window " << window;
  }
}

TEST_P(CudaOps, ReplaysWhatItRecorded) {
  Random random(3);
  const TestTensor x(*ops_, GetParam(), {3, 64}, normal(random, 3 * 64));
  const TestTensor sum(*ops_, GetParam(), {3, 64}, std::vector<float>(3 * 64));
  ASSERT_TRUE(ops_->records());
  int calls = 0;
  for (int i = 0; i < 4; ++i) {
    ops_->run_recorded(10, [&] {
      ++calls;
      ops_->add(sum, x);
    });
  }
  EXPECT_EQ(calls, 2);  // once plainly, once to be recorded
  const std::vector<float> actual = sum.read();
  for (std::size_t i = 0; i < actual.size(); ++i) {
    float expected = 0;
    for (int added = 0; added < 4; ++added) expected = round_to(GetParam(), expected + x.values()[i]);
    ASSERT_EQ(actual[i], expected) << "at " << i;
  }
}

TEST_P(CudaOps, SaysWhatMemoryIsWanted) {
  const std::int64_t live = ops_->allocator().live_bytes();
  try {
    ops_->allocator().allocate(std::size_t{1} << 50);
    FAIL() << "a petabyte was allocated";
  } catch (const OutOfMemoryError& error) {
    EXPECT_NE(std::string(error.what()).find("cuda:0"), std::string::npos) << error.what();
  }
  EXPECT_EQ(ops_->allocator().live_bytes(), live);
  const TestTensor x(*ops_, GetParam(), {1, 8}, std::vector<float>(8, 1.0F));  // and goes on
  ops_->add(x, x);
  EXPECT_EQ(x.read(), std::vector<float>(8, 2.0F));
}

INSTANTIATE_TEST_SUITE_P(Halves, CudaOps, ::testing::Values(DType::f16, DType::bf16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST(CudaDevice, RefusesWhatIsNotThere) {
  if (const std::string reason = why_no_gpu(); !reason.empty()) GTEST_SKIP() << reason;
  const Backend& backend = load_backend("cuda");
  EXPECT_THROW(backend.create_ops(999, DType::f16), DeviceError);
  EXPECT_THROW(backend.create_ops(0, DType::f32), InvalidArgument);
}

}  // namespace
}  // namespace gossamer
