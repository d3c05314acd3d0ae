// Batch-invariant mode: right like any other, and a token's bits do not depend on what is computed beside it.
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

std::unique_ptr<Ops> make_ops(DType act) { return load_backend("cuda").create_ops(0, act, {.batch_invariant = true, .cost_table = ""}); }

class BatchInvariantCases : public ::testing::TestWithParam<std::tuple<DType, OpsCase>> {
 protected:
  void SetUp() override {
    if (const std::string reason = why_no_gpu(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

TEST_P(BatchInvariantCases, MatchesTheFormula) {
  const auto& [act, ops_case] = GetParam();
  const std::unique_ptr<Ops> ops = make_ops(act);
  ops_case.run(*ops);
}

INSTANTIATE_TEST_SUITE_P(Halves, BatchInvariantCases,
                         ::testing::Combine(::testing::Values(DType::f16, DType::bf16), ::testing::ValuesIn(all_ops_cases())),
                         [](const auto& info) {
                           return std::string(name_of(std::get<0>(info.param))) + "_" + std::get<1>(info.param).name;
                         });

class BatchInvariant : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (const std::string reason = why_no_gpu(); !reason.empty()) GTEST_SKIP() << reason;
    ops_ = make_ops(GetParam());
  }
  std::unique_ptr<Ops> ops_;
};

// Rows [begin, begin + n) of x through the weight.
std::vector<float> products(Ops& ops, const PackedWeight& weight, const std::vector<float>& x, std::int64_t begin, std::int64_t n,
                            std::int64_t pad) {
  const std::int64_t k = weight.cols(), m = weight.rows();
  const TestTensor rows(ops, ops.activation_dtype(), {n, k}, {x.begin() + begin * k, x.begin() + (begin + n) * k}, pad);
  const TestTensor out = TestTensor::poisoned(ops, DType::f32, {n, m});
  ops.linear(out, rows, weight, {});
  return out.read();
}

TEST_P(BatchInvariant, ProductsOfARowAreTheSameInEveryBatch) {
  constexpr std::int64_t kMost = 200;
  Random random(41);
  for (const std::int64_t k : {1024, 1021}) {
    for (const double sparsity : {-1.0, 0.5, 0.97}) {  // dense, bitmap, Tiled-CSL
      for (const std::int64_t m : {300, 4100}) {
        const TestWeight weight(*ops_, GetParam(), m, k, sparsity, random);
        const std::vector<float> x = normal(random, kMost * k);
        const std::vector<float> all = products(*ops_, *weight.packed, x, 0, kMost, 0);
        for (const std::int64_t n : {1, 2, 7, 8, 9, 16, 17, 32, 33, 100}) {
          const std::int64_t begin = random.below(kMost - n + 1);
          const std::vector<float> some = products(*ops_, *weight.packed, x, begin, n, n % 3);  // also where rows are not aligned
          for (std::size_t i = 0; i < some.size(); ++i) {
            ASSERT_EQ(some[i], all[static_cast<std::size_t>(begin * m) + i])
                << "k " << k << ", m " << m << ", sparsity " << sparsity << ", n " << n;
          }
        }
      }
    }
  }
}

// A token of a prompt, of a chunk of it, beside other sequences, or decoded alone.
TEST_P(BatchInvariant, AttentionOfATokenIsTheSameInEveryBatch) {
  constexpr std::int64_t kContext = 600, kQueries = 100;
  AttentionCase c{.sequences = {{kContext, kQueries}, {1400, 3}, {9, 9}}, .num_heads = 8, .num_kv_heads = 2};
  c.head_dim = 64;
  c.block_size = 16;
  c.kv_dtype = GetParam();
  const AttentionProblem p(*ops_, c, 77);
  const AttentionParams params{.scale = 0.125F, .sliding_window = 0};
  const TestTensor together = TestTensor::poisoned(*ops_, GetParam(), {p.num_tokens, c.num_heads, c.head_dim});
  ops_->attention(together, *p.q, p.kv(), p.batch, params);
  const std::vector<float> all = together.read();
  const std::int64_t row = c.num_heads * c.head_dim;
  for (const auto& [first, count] : {std::pair<std::int64_t, std::int64_t>{0, kQueries}, {0, 1}, {37, 1}, {99, 1}, {10, 5}, {20, 64}}) {
    const IntTensor starts(*ops_, {0, static_cast<std::int32_t>(count)});
    const IntTensor length(*ops_, {static_cast<std::int32_t>(kContext - kQueries + first + count)});
    Batch batch = p.batch;
    batch.num_tokens = batch.max_query_len = count;
    batch.num_seqs = 1;
    batch.query_start = starts;
    batch.context_len = length;
    batch.max_context_len = kContext - kQueries + first + count;
    batch.block_table = p.batch.block_table.slice(0, 0, 1);
    const TestTensor out = TestTensor::poisoned(*ops_, GetParam(), {count, c.num_heads, c.head_dim});
    ops_->attention(out, p.q->view().slice(0, first, first + count), p.kv(), batch, params);
    const std::vector<float> some = out.read();
    for (std::size_t i = 0; i < some.size(); ++i) {
      ASSERT_EQ(some[i], all[static_cast<std::size_t>(first * row) + i]) << "tokens " << first << " + " << count << " at " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Halves, BatchInvariant, ::testing::Values(DType::f16, DType::bf16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace gossamer
