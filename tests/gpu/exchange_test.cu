// The exchange kernels, with ranks as streams: of one GPU, and of several where there are some that reach each other.
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "device/numeric.cuh"
#include "kernels/exchange.cuh"
#include "launch/exchange.h"

namespace gossamer::cuda {
namespace {

// Kernels that wait for each other come from one thread here: no launch may have to wait for one of them. So all are loaded before, and
// each stream has a queue of its own to the GPU. CUDA reads this at its first call.
[[maybe_unused]] const bool kIsPrepared =
    setenv("CUDA_MODULE_LOADING", "EAGER", 1) == 0 && setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1) == 0;

void ok(cudaError_t status) { ASSERT_EQ(status, cudaSuccess) << cudaGetErrorString(status); }

int num_gpus() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// Ranks of one process: what PeerExchange sets up between processes.
class Group {
 public:
  Group(int ranks, bool one_gpu_each) : ranks_(ranks), one_gpu_each_(one_gpu_each), members_(static_cast<std::size_t>(ranks)) {
    ok(cudaMallocHost(&end_, sizeof(*end_)));
    *end_ = 0;
    const std::vector<std::uint32_t> empty(exchange_stage_bytes(ranks) / 4, kExchangeEmpty);
    for (int rank = 0; rank < ranks; ++rank) {
      Member& member = members_[static_cast<std::size_t>(rank)];
      member.device = one_gpu_each ? rank : 0;
      ok(cudaSetDevice(member.device));
      for (int other = 0; one_gpu_each && other < ranks; ++other) {
        if (other != rank) cudaDeviceEnablePeerAccess(other, 0);
      }
      cudaGetLastError();  // enabled before
      ok(cudaMalloc(&member.stage, exchange_stage_bytes(ranks)));
      ok(cudaMemcpy(member.stage, empty.data(), exchange_stage_bytes(ranks), cudaMemcpyHostToDevice));
      ok(cudaMalloc(&member.state, kExchangeMaxBlocks * sizeof(ExchangeState)));
      ok(cudaMemset(member.state, 0, kExchangeMaxBlocks * sizeof(ExchangeState)));
      ok(cudaMalloc(&member.x, kMostBytes));
      ok(cudaMalloc(&member.out, kMostBytes * static_cast<std::size_t>(ranks)));
      ok(cudaStreamCreateWithFlags(&member.stream, cudaStreamNonBlocking));
      ok(cudaDeviceSynchronize());
    }
  }
  ~Group() {
    for (const Member& member : members_) {
      cudaSetDevice(member.device);
      cudaStreamSynchronize(member.stream);
      cudaStreamDestroy(member.stream);
      for (void* memory : {member.stage, static_cast<void*>(member.state), member.x, member.out}) cudaFree(memory);
    }
    cudaFreeHost(end_);
  }

  static constexpr std::size_t kMostBytes = std::size_t{1} << 20;

  struct Member {
    int device = 0;
    void *stage = nullptr, *x = nullptr, *out = nullptr;
    ExchangeState* state = nullptr;
    cudaStream_t stream = nullptr;
  };

  // Whether all blocks of an all-reduce are there at once: those of ranks that share a GPU wait for each other.
  bool fits(std::int64_t units) const {
    if (one_gpu_each_) return true;
    int sms = 0, per_sm = 0;
    ok(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
    auto* const kernel = ranks_ == 2   ? all_reduce_kernel<__half, 2>
                         : ranks_ == 3 ? all_reduce_kernel<__half, 3>
                                       : all_reduce_kernel<__half, kMaxPeers>;
    ok(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, kExchangeThreads, 0));
    return ranks_ * exchange_blocks(units) <= std::int64_t{sms} * per_sm;
  }

  Member& member(int rank) { return members_[static_cast<std::size_t>(rank)]; }
  void end() { *static_cast<volatile std::uint32_t*>(end_) = 1; }

  ExchangeParams params(int rank, std::int64_t units) {
    ExchangeParams p;
    p.x = member(rank).x;
    p.out = member(rank).out;
    for (int other = 0; other < ranks_; ++other) p.stages[other] = member(other).stage;
    p.state = member(rank).state;
    p.end = end_;
    p.units = units;
    p.rank = rank;
    return p;
  }
  template <class T>
  void set_x(int rank, const std::vector<T>& values) {
    ok(cudaSetDevice(member(rank).device));
    ok(cudaMemcpyAsync(member(rank).x, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice, member(rank).stream));
  }
  template <class T>
  std::vector<T> out(int rank, std::size_t count) {
    std::vector<T> values(count);
    ok(cudaSetDevice(member(rank).device));
    ok(cudaMemcpyAsync(values.data(), member(rank).out, count * sizeof(T), cudaMemcpyDeviceToHost, member(rank).stream));
    ok(cudaStreamSynchronize(member(rank).stream));
    return values;
  }

 private:
  int ranks_;
  bool one_gpu_each_;
  std::vector<Member> members_;
  std::uint32_t* end_ = nullptr;
};

std::vector<std::pair<int, bool>> groups() {
  std::vector<std::pair<int, bool>> all{{2, false}, {3, false}, {kMaxPeers, false}};
  int reaches = 0;
  if (num_gpus() >= 2) cudaDeviceCanAccessPeer(&reaches, 0, 1);
  if (reaches != 0) all.emplace_back(num_gpus() >= 4 ? 4 : 2, true);
  return all;
}

// Halves of every kind, -0 among them; a pair of -0 is what marks a word as empty.
std::vector<__half> random_halves(std::size_t count, unsigned seed) {
  std::minstd_rand random(seed);
  std::vector<__half> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    const bool is_negative_zero = random() % 4 == 0;
    values[i] = is_negative_zero ? __float2half(-0.0F) : __float2half(static_cast<float>(random() % 4001) / 100.0F - 20.0F);
  }
  return values;
}

class Exchange : public ::testing::Test {
 protected:
  void SetUp() override {
    if (num_gpus() == 0) GTEST_SKIP() << "no NVIDIA GPU here";
  }
};

// The sum is that of fp32 additions in the order of the ranks, rounded once: bit for bit, up to the sign of zero.
TEST_F(Exchange, SumsInTheOrderOfTheRanks) {
  for (const auto& [ranks, one_gpu_each] : groups()) {
    Group group(ranks, one_gpu_each);
    unsigned seed = 1;
    for (const std::int64_t units : {1, 255, 256, 257, 7168, 16384, 16385, 40000, 65536, 3, 7168}) {
      if (!group.fits(units)) continue;
      const auto count = static_cast<std::size_t>(units) * 8;
      std::vector<std::vector<__half>> x;
      for (int rank = 0; rank < ranks; ++rank) {
        x.push_back(random_halves(count, seed++));
        group.set_x(rank, x.back());
      }
      for (int rank = 0; rank < ranks; ++rank) {
        ok(cudaSetDevice(group.member(rank).device));
        ok(launch_all_reduce(group.params(rank, units), ranks, DType::f16, group.member(rank).stream));
      }
      for (int rank = 0; rank < ranks; ++rank) {
        const std::vector<__half> out = group.out<__half>(rank, count);
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < count; ++i) {
          float sum = __half2float(x[0][i]);
          for (std::size_t other = 1; other < x.size(); ++other) sum += __half2float(x[other][i]);
          wrong += __half2float(out[i]) != __half2float(__float2half_rn(sum));
        }
        EXPECT_EQ(wrong, 0U) << ranks << " ranks, " << units << " units, rank " << rank;
      }
    }
  }
}

// Launches that follow each other with nothing between the ranks but the exchange itself, recorded and replayed, of changing sizes.
TEST_F(Exchange, ManyLaunchesInGraphs) {
  for (const auto& [ranks, one_gpu_each] : groups()) {
    Group group(ranks, one_gpu_each);
    if (!group.fits(7168)) continue;
    constexpr std::size_t kCount = 8 * 7168;
    std::vector<cudaGraphExec_t> graphs(static_cast<std::size_t>(ranks));
    for (int rank = 0; rank < ranks; ++rank) {
      Group::Member& member = group.member(rank);
      group.set_x(rank, std::vector<__half>(kCount, __float2half(static_cast<float>(rank + 1))));
      ok(cudaStreamBeginCapture(member.stream, cudaStreamCaptureModeThreadLocal));
      for (int i = 0; i < 50; ++i) {
        ok(launch_all_reduce(group.params(rank, 1 + i * 997 % 7168), ranks, DType::f16, member.stream));
      }
      ok(launch_all_reduce(group.params(rank, 7168), ranks, DType::f16, member.stream));
      cudaGraph_t graph = nullptr;
      ok(cudaStreamEndCapture(member.stream, &graph));
      ok(cudaGraphInstantiate(&graphs[static_cast<std::size_t>(rank)], graph, 0));
      ok(cudaGraphDestroy(graph));
      ok(cudaGraphUpload(graphs[static_cast<std::size_t>(rank)], member.stream));
      ok(cudaStreamSynchronize(member.stream));
    }
    for (int replay = 0; replay < 20; ++replay) {
      for (int rank = 0; rank < ranks; ++rank) {
        ok(cudaSetDevice(group.member(rank).device));
        ok(cudaGraphLaunch(graphs[static_cast<std::size_t>(rank)], group.member(rank).stream));
      }
    }
    const float expected = static_cast<float>(ranks * (ranks + 1)) / 2;
    for (int rank = 0; rank < ranks; ++rank) {
      for (const __half value : group.out<__half>(rank, kCount)) ASSERT_EQ(__half2float(value), expected);
      cudaGraphExecDestroy(graphs[static_cast<std::size_t>(rank)]);
    }
  }
}

TEST_F(Exchange, GathersRowsSideBySide) {
  for (const auto& [ranks, one_gpu_each] : groups()) {
    Group group(ranks, one_gpu_each);
    constexpr std::int64_t kRows = 5, kCols = 252;  // f32
    for (int rank = 0; rank < ranks; ++rank) {
      std::vector<float> part(kRows * kCols);
      for (std::size_t i = 0; i < part.size(); ++i) part[i] = static_cast<float>(10000 * rank) + static_cast<float>(i);
      group.set_x(rank, part);
    }
    for (int rank = 0; rank < ranks; ++rank) {
      ok(cudaSetDevice(group.member(rank).device));
      ExchangeParams p = group.params(rank, kRows * kCols / 4);
      p.row_units = kCols / 4;
      ok(launch_all_gather(p, ranks, group.member(rank).stream));
    }
    for (int rank = 0; rank < ranks; ++rank) {
      const std::vector<float> out = group.out<float>(rank, static_cast<std::size_t>(kRows * kCols * ranks));
      for (std::int64_t row = 0; row < kRows; ++row) {
        for (std::int64_t col = 0; col < kCols * ranks; ++col) {
          const auto expected = static_cast<float>(10000 * (col / kCols) + row * kCols + col % kCols);
          ASSERT_EQ(out[static_cast<std::size_t>(row * kCols * ranks + col)], expected) << row << ", " << col;
        }
      }
    }
  }
}

// A rank that is gone: who waits for it is let go.
TEST_F(Exchange, EndsWhenToldTo) {
  Group group(2, false);
  ok(launch_all_reduce(group.params(0, 7168), 2, DType::f16, group.member(0).stream));
  EXPECT_EQ(cudaStreamQuery(group.member(0).stream), cudaErrorNotReady);
  group.end();
  EXPECT_EQ(cudaStreamSynchronize(group.member(0).stream), cudaSuccess);
}

}  // namespace
}  // namespace gossamer::cuda
