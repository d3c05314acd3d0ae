// The exchange kernels' own source, every thread of every rank a thread of the host: they run at once, as they do on several GPUs.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <barrier>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

// CUDA's words and built-ins, for exchange.cuh below; what it does not use is declared only.
#undef __launch_bounds__
#undef __grid_constant__
#define __launch_bounds__(...)
#define __grid_constant__
struct BuiltIn {
  unsigned x = 0;
};
static thread_local BuiltIn threadIdx, blockIdx, blockDim;
static thread_local std::barrier<>* block_barrier = nullptr;
inline void __syncthreads() { block_barrier->arrive_and_wait(); }
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance);

#include "kernels/exchange.cuh"

namespace gossamer::cuda {
namespace {

// The memory that PeerExchange sets up.
template <int kRanks>
class Group {
 public:
  Group() : states_(kRanks, std::vector<ExchangeState>(kExchangeMaxBlocks)) {
    const std::size_t units = exchange_stage_bytes(kRanks) / sizeof(ExchangeUnit);
    for (int rank = 0; rank < kRanks; ++rank) {
      stages_.emplace_back(units, ExchangeUnit{{kExchangeEmpty, kExchangeEmpty, kExchangeEmpty, kExchangeEmpty}});
    }
  }

  ExchangeParams params(int rank, const void* x, void* out, std::int64_t units) {
    ExchangeParams p;
    p.x = x;
    p.out = out;
    for (int other = 0; other < kRanks; ++other) p.stages[other] = stages_[static_cast<std::size_t>(other)].data();
    p.state = states_[static_cast<std::size_t>(rank)].data();
    p.end = &end_;
    p.units = units;
    p.block_units = exchange_block_units(units);
    p.rank = rank;
    return p;
  }

  // Each rank's launches one after the other; the ranks only meet in the kernels. launch(rank, index) returns the launch's parameters.
  void run(std::vector<int> ranks, int num_launches, const std::function<ExchangeParams(int, int)>& parameters,
           void (*kernel)(ExchangeParams)) {
    std::vector<std::thread> threads;
    std::vector<std::unique_ptr<std::barrier<>>> barriers;
    for (const int rank : ranks) {
      std::barrier<>* barrier = barriers.emplace_back(std::make_unique<std::barrier<>>(kExchangeThreads)).get();
      for (unsigned thread = 0; thread < kExchangeThreads; ++thread) {
        threads.emplace_back([&, rank, thread, barrier] {
          block_barrier = barrier;
          threadIdx.x = thread;
          for (int launch = 0; launch < num_launches; ++launch) {
            const ExchangeParams p = parameters(rank, launch);
            for (blockIdx.x = 0; blockIdx.x < exchange_blocks(p.units); ++blockIdx.x) {
              kernel(p);
              barrier->arrive_and_wait();  // a launch begins when the one before is over
            }
          }
        });
      }
    }
    for (std::thread& thread : threads) thread.join();
  }

  void end() { end_ = 1; }

 private:
  std::vector<std::vector<ExchangeUnit>> stages_;
  std::vector<std::vector<ExchangeState>> states_;
  std::uint32_t end_ = 0;
};

template <class T>
std::vector<T> random_halves(std::size_t count, unsigned seed) {
  std::minstd_rand random(seed);
  std::vector<T> values(count);
  for (T& value : values) {
    const bool is_negative_zero = random() % 4 == 0;  // two of them mark a word as empty
    value = from_float<T>(is_negative_zero ? -0.0F : static_cast<float>(random() % 4001) / 100.0F - 20.0F);
  }
  return values;
}

// Bit for bit, up to the sign of zero, what fp32 additions in the order of the ranks give.
template <class T, int kRanks>
void expect_sums(const std::vector<std::int64_t>& sizes) {
  Group<kRanks> group;
  std::vector<std::vector<std::vector<T>>> x(kRanks), out(kRanks);
  for (int rank = 0; rank < kRanks; ++rank) {
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const auto count = static_cast<std::size_t>(8 * sizes[i]);
      x[static_cast<std::size_t>(rank)].push_back(random_halves<T>(count, static_cast<unsigned>(100 * rank + static_cast<int>(i))));
      out[static_cast<std::size_t>(rank)].emplace_back(count);
    }
  }
  std::vector<int> all(kRanks);
  for (int rank = 0; rank < kRanks; ++rank) all[static_cast<std::size_t>(rank)] = rank;
  group.run(
      all, static_cast<int>(sizes.size()),
      [&](int rank, int launch) {
        const auto r = static_cast<std::size_t>(rank), i = static_cast<std::size_t>(launch);
        return group.params(rank, x[r][i].data(), out[r][i].data(), sizes[i]);
      },
      &all_reduce_kernel<T, kRanks>);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    std::size_t wrong = 0;
    for (std::size_t element = 0; element < x[0][i].size(); ++element) {
      float sum = to_float(x[0][i][element]);
      for (std::size_t rank = 1; rank < kRanks; ++rank) sum += to_float(x[rank][i][element]);
      for (std::size_t rank = 0; rank < kRanks; ++rank) wrong += to_float(out[rank][i][element]) != to_float(from_float<T>(sum));
    }
    EXPECT_EQ(wrong, 0U) << kRanks << " ranks, launch " << i << " of " << sizes[i] << " units";
  }
}

TEST(ExchangeKernel, SumsInTheOrderOfTheRanks) {
  expect_sums<__half, 2>({1, 300, 7, 256, 1025, 16385, 1, 40});
  expect_sums<__nv_bfloat16, 3>({513, 2, 300, 300, 300, 5});
}

TEST(ExchangeKernel, GathersRowsSideBySide) {
  constexpr int kRanks = 2;
  constexpr std::int64_t kRows = 5, kRowUnits = 63;
  Group<kRanks> group;
  std::vector<std::vector<float>> parts(kRanks), out(kRanks);
  for (std::size_t rank = 0; rank < kRanks; ++rank) {
    parts[rank].resize(kRows * kRowUnits * 4);
    out[rank].resize(kRanks * parts[rank].size());
    for (std::size_t i = 0; i < parts[rank].size(); ++i) parts[rank][i] = static_cast<float>(10000 * rank + i);
  }
  group.run(
      {0, 1}, 1,
      [&](int rank, int) {
        const auto r = static_cast<std::size_t>(rank);
        ExchangeParams p = group.params(rank, parts[r].data(), out[r].data(), kRows * kRowUnits);
        p.row_units = kRowUnits;
        return p;
      },
      &all_gather_kernel<kRanks>);
  constexpr std::int64_t kCols = kRowUnits * 4;
  for (std::int64_t i = 0; i < kRows * kCols * kRanks; ++i) {
    const std::int64_t row = i / (kCols * kRanks), col = i % (kCols * kRanks);
    const auto expected = static_cast<float>(10000 * (col / kCols) + row * kCols + col % kCols);
    for (std::size_t rank = 0; rank < kRanks; ++rank) ASSERT_EQ(out[rank][static_cast<std::size_t>(i)], expected) << row << ", " << col;
  }
}

TEST(ExchangeKernel, WhoWaitsForARankThatIsGoneEndsWithTheGroup) {
  Group<2> group;
  std::vector<__half> x(8 * 5), out(8 * 5);
  group.end();
  group.run({0}, 2, [&](int rank, int) { return group.params(rank, x.data(), out.data(), 5); }, &all_reduce_kernel<__half, 2>);
}

TEST(ExchangeKernel, BlocksTakeTheWholeMessageAndNoMoreThanTheirMemory) {
  for (std::int64_t units = 1; units <= kExchangeMaxBlocks * kExchangeBlockCapacity; units += 1 + units / 50) {
    EXPECT_LE(exchange_block_units(units), kExchangeBlockCapacity);
    EXPECT_LE(exchange_blocks(units), kExchangeMaxBlocks);
    EXPECT_GE(exchange_blocks(units) * exchange_block_units(units), units);
    EXPECT_LT((exchange_blocks(units) - 1) * exchange_block_units(units), units) << "a block would have nothing to do";
  }
}

}  // namespace
}  // namespace gossamer::cuda
