// An output's bits depend on k and the instruction set alone: not on the batch around it, the thread count, the chunking, the pool's
// block_size, or whether the zeros of a weight are stored.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "cpu/cpu_ops.h"
#include "support/random.h"
#include "support/scaled_cases.h"

namespace gossamer {
namespace {

using namespace gossamer::testing;

constexpr std::int64_t kRows = 45;    // m: not a multiple of any block
constexpr std::int64_t kTokens = 33;  // n

std::vector<std::uint32_t> bits_of(const Tensor& t) {
  std::vector<std::uint32_t> bits;
  for (std::int64_t i = 0; i < t.size(0); ++i) {
    for (std::int64_t j = 0; j < t.size(1); ++j) bits.push_back(std::bit_cast<std::uint32_t>(t.row<const float>(i)[j]));
  }
  return bits;
}

class CpuBits : public ::testing::TestWithParam<CpuIsa> {
 protected:
  std::unique_ptr<Ops> make(int threads, DType product_dtype = DType::f32) {
    return make_cpu_ops({.num_threads = threads, .isa = GetParam(), .product_dtype = product_dtype}, &allocator_);
  }
  OwnedTensor matrix(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
    Random random(seed);
    return random_matrix(allocator_, DType::f32, rows, cols, 1.0, random);
  }
  HostAllocator allocator_;
};

// One product in every company, by any number of threads, of every weight that stands for the same matrix.
class LinearProblem {
 public:
  LinearProblem(Allocator& allocator, std::int64_t k)
      : allocator_(allocator), x_(make(kTokens, k, 2)), bias_(make(1, kRows, 3)), residual_(make(kTokens, kRows, 4)) {}

  void check(Ops& ops, const PackedWeight& weight, int threads) {
    for (const std::int64_t company : {1, 2, 3, 4, 5, 8, 16, 33}) {
      OwnedTensor out(allocator_, DType::f32, {kTokens, kRows});
      for (std::int64_t t = 0; t < kTokens; t += company) {
        const std::int64_t end = std::min(t + company, kTokens);
        ops.linear(out.view.rows(t, end), x_.view.rows(t, end), weight,
                   {.bias = bias_.view.reshape({kRows}), .activation = Activation::gelu, .residual = residual_.view.rows(t, end)});
      }
      if (expected_.empty()) expected_ = bits_of(out.view);
      ASSERT_EQ(bits_of(out.view), expected_) << weight.format() << ", " << threads << " threads, " << company << " tokens at a time";
    }
  }

 private:
  OwnedTensor make(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
    Random random(seed);
    return random_matrix(allocator_, DType::f32, rows, cols, 1.0, random);
  }

  Allocator& allocator_;
  OwnedTensor x_, bias_, residual_;
  std::vector<std::uint32_t> expected_;
};

TEST_P(CpuBits, LinearIsTheSameWhateverTheCompanyThreadsAndEncoding) {
  // Below a step, odd, one panel, more than one panel, several, and more than a panel of 16-bit weights.
  for (const std::int64_t k : {7, 100, 576, 800, 1700, 4200}) {
    for (const auto& [dtype, inputs] :
         {std::pair{DType::f32, DType::f32}, {DType::f16, DType::f32}, {DType::bf16, DType::f32}, {DType::bf16, DType::bf16}}) {
      if (k > 4096 && dtype != DType::bf16) continue;
      SCOPED_TRACE("k = " + std::to_string(k) + " " + std::string(name_of(dtype)) + ", inputs " + std::string(name_of(inputs)));
      Random random(static_cast<std::uint64_t>(k));
      const OwnedTensor weight = random_matrix(allocator_, dtype, kRows, k, 0.5, random);
      const OwnedSparseWeight sparse = sparse_from_dense(weight.view, allocator_);
      LinearProblem problem(allocator_, k);
      for (const int threads : {1, 2, 8}) {
        const std::unique_ptr<Ops> ops = make(threads, inputs);
        ASSERT_NO_FATAL_FAILURE(problem.check(*ops, *ops->pack(weight.view), threads));
        ASSERT_NO_FATAL_FAILURE(problem.check(*ops, *ops->pack(sparse.view), threads));
      }
    }
  }
}

TEST_P(CpuBits, ScaledLinearIsTheSameWhateverTheCompanyThreadsAndEncoding) {
  for (const std::int64_t k : {7, 100, 576, 1700, 4200}) {
    for (const DType dtype : kScaledDTypes) {
      for (const auto& [group, inputs] :
           {std::pair{k, DType::f32}, {k, DType::bf16}, {std::int64_t{64}, DType::f32}, {std::int64_t{64}, DType::bf16}}) {
        if (group > k) continue;
        SCOPED_TRACE("k = " + std::to_string(k) + " " + std::string(name_of(dtype)) + ", group " + std::to_string(group) + ", inputs " +
                     std::string(name_of(inputs)));
        Random random(static_cast<std::uint64_t>(k));
        const OwnedScaledMatrix weight = random_scaled(allocator_, dtype, kRows, k, group, 0.5, random);
        const OwnedSparseWeight sparse = sparse_from_scaled(weight.view, allocator_);
        LinearProblem problem(allocator_, k);
        for (const int threads : {1, 2, 8}) {
          const std::unique_ptr<Ops> ops = make(threads, inputs);
          ASSERT_NO_FATAL_FAILURE(problem.check(*ops, *ops->pack(weight.view), threads));
          ASSERT_NO_FATAL_FAILURE(problem.check(*ops, *ops->pack(sparse.view), threads));
        }
      }
    }
  }
}

TEST_P(CpuBits, PointwiseRowsAreTheSameWhateverTheCompanyAndThreads) {
  const std::int64_t rows = 200;
  const std::int64_t size = 333;
  const OwnedTensor x = matrix(rows, 2 * size, 5);
  const OwnedTensor weight = matrix(1, 2 * size, 6);
  std::vector<std::uint32_t> expected;
  for (const int threads : {1, 2, 8}) {
    const std::unique_ptr<Ops> ops = make(threads);
    for (const std::int64_t company : {1, 3, 200}) {
      OwnedTensor normed(allocator_, DType::f32, {rows, 2 * size});
      OwnedTensor gated(allocator_, DType::f32, {rows, size});
      for (std::int64_t r = 0; r < rows; r += company) {
        const std::int64_t end = std::min(r + company, rows);
        ops->rms_norm(normed.view.rows(r, end), x.view.rows(r, end), weight.view.reshape({2 * size}), 1e-5F);
        ops->gated_activation(gated.view.rows(r, end), normed.view.rows(r, end), Activation::silu);
      }
      if (expected.empty()) expected = bits_of(gated.view);
      ASSERT_EQ(bits_of(gated.view), expected) << threads << " threads, " << company << " rows at a time";
    }
  }
}

// One sequence of kContext tokens in a pool of blocks of block_size; block i of the sequence is block (num_blocks - 1 - i) of the pool.
class PagedSequence {
 public:
  static constexpr std::int64_t kContext = 131;
  static constexpr std::int64_t kHeads = 6;
  static constexpr std::int64_t kKvHeads = 2;

  PagedSequence(Allocator& allocator, const Tensor& k, const Tensor& v, std::int64_t head_dim, std::int64_t block_size)
      : block_size_(block_size), num_blocks_((kContext + block_size - 1) / block_size) {
    keys_ = OwnedTensor(allocator, DType::f32, {num_blocks_, kKvHeads, block_size, head_dim});
    values_ = OwnedTensor(allocator, DType::f32, {num_blocks_, kKvHeads, block_size, head_dim});
    blocks_ = OwnedTensor(allocator, DType::i32, {1, num_blocks_});
    for (OwnedTensor* pool : {&keys_, &values_}) std::memset(pool->view.raw(), 0xFF, static_cast<std::size_t>(pool->view.nbytes()));  // NaN
    for (std::int64_t i = 0; i < num_blocks_; ++i) blocks_.view.data<std::int32_t>()[i] = static_cast<std::int32_t>(num_blocks_ - 1 - i);
    for (std::int64_t t = 0; t < kContext; ++t) {
      for (std::int64_t h = 0; h < kKvHeads; ++h) {
        const std::int64_t at = ((num_blocks_ - 1 - t / block_size) * kKvHeads + h) * block_size + t % block_size;
        std::copy_n(k.row<const float>(t) + h * head_dim, head_dim, keys_.view.data<float>() + at * head_dim);
        std::copy_n(v.row<const float>(t) + h * head_dim, head_dim, values_.view.data<float>() + at * head_dim);
      }
    }
  }

  // All queries, chunk tokens at a time.
  void attend(Ops& ops, Allocator& allocator, const Tensor& out, const Tensor& q, std::int64_t chunk, std::int64_t window) const {
    OwnedTensor start(allocator, DType::i32, {2});
    OwnedTensor length(allocator, DType::i32, {1});
    for (std::int64_t t = 0; t < kContext; t += chunk) {
      const std::int64_t end = std::min(t + chunk, kContext);
      start.view.data<std::int32_t>()[0] = 0;
      start.view.data<std::int32_t>()[1] = static_cast<std::int32_t>(end - t);
      length.view.data<std::int32_t>()[0] = static_cast<std::int32_t>(end);
      Batch batch;
      batch.num_tokens = batch.max_query_len = end - t;
      batch.num_seqs = 1;
      batch.max_context_len = end;
      batch.query_start = start.view;
      batch.context_len = length.view;
      batch.block_table = blocks_.view;
      ops.attention(out.rows(t, end), q.rows(t, end), {keys_.view, values_.view}, batch, {.scale = 0.3F, .sliding_window = window});
    }
  }

 private:
  std::int64_t block_size_, num_blocks_;
  OwnedTensor keys_, values_, blocks_;
};

TEST_P(CpuBits, AttentionIsTheSameWhateverTheChunkThreadsAndBlockSize) {
  for (const std::int64_t head_dim : {20, 64, 80}) {
    const std::int64_t context = PagedSequence::kContext;
    const OwnedTensor q = matrix(context, PagedSequence::kHeads * head_dim, 7);
    const OwnedTensor k = matrix(context, PagedSequence::kKvHeads * head_dim, 8);
    const OwnedTensor v = matrix(context, PagedSequence::kKvHeads * head_dim, 9);
    for (const std::int64_t window : {0, 37}) {
      std::vector<std::uint32_t> expected;
      for (const std::int64_t block_size : {16, 5, 32}) {
        const PagedSequence sequence(allocator_, k.view, v.view, head_dim, block_size);
        for (const int threads : {1, 2, 8}) {
          const std::unique_ptr<Ops> ops = make(threads);
          for (const std::int64_t chunk : {1, 6, 29, 131}) {
            OwnedTensor out(allocator_, DType::f32, {context, PagedSequence::kHeads * head_dim});
            sequence.attend(*ops, allocator_, out.view.split_last(PagedSequence::kHeads, head_dim),
                            q.view.split_last(PagedSequence::kHeads, head_dim), chunk, window);
            if (expected.empty()) expected = bits_of(out.view);
            ASSERT_EQ(bits_of(out.view), expected) << "head_dim " << head_dim << ", window " << window << ", block_size " << block_size
                                                   << ", " << threads << " threads, chunks of " << chunk;
          }
        }
      }
    }
  }
}

TEST_P(CpuBits, SteadyStateAllocatesNothing) {
  const std::unique_ptr<Ops> ops = make(2);
  const OwnedTensor dense = matrix(kRows, 70, 1);  // k is no whole step: the workspace is used
  const std::unique_ptr<PackedWeight> weight = ops->pack(dense.view);
  const OwnedTensor x = matrix(kTokens, 70, 2);
  OwnedTensor out(allocator_, DType::f32, {kTokens, kRows});
  ops->linear(out.view, x.view, *weight);
  const std::int64_t before = allocator_.total_allocations();
  for (std::int64_t n = 1; n <= kTokens; ++n) ops->linear(out.view.rows(0, n), x.view.rows(0, n), *weight);
  EXPECT_EQ(allocator_.total_allocations(), before);
}

TEST_P(CpuBits, PackedWeightsSayWhatTheyHold) {
  Random random(3);
  const std::unique_ptr<Ops> ops = make(2);
  const OwnedTensor dense = random_matrix(allocator_, DType::bf16, 17, 50, 0.3, random);
  const std::unique_ptr<PackedWeight> table = ops->pack(dense.view);
  ASSERT_TRUE(table->table().defined());
  EXPECT_EQ(to_floats(table->table()), to_floats(dense.view));
  EXPECT_EQ(table->nbytes(), 24 * 64 * 2);
  const OwnedSparseWeight sparse = sparse_from_dense(dense.view, allocator_);
  const std::unique_ptr<PackedWeight> bitmap = ops->pack(sparse.view);
  EXPECT_FALSE(bitmap->table().defined());
  EXPECT_EQ(bitmap->rows(), 17);
  EXPECT_EQ(bitmap->cols(), 50);
  EXPECT_EQ(bitmap->dtype(), DType::bf16);
  EXPECT_EQ(bitmap->nbytes(), 2 * sparse.view.nnz() + 64 + 3 * 2 * 8 * 4 + 3 * 8);
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, CpuBits, ::testing::ValuesIn(available_cpu_isas()), [](const auto& info) {
  std::string isa(name_of(info.param));
  std::replace(isa.begin(), isa.end(), '-', '_');
  return isa;
});

}  // namespace
}  // namespace gossamer
