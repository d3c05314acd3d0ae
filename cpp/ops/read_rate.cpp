#include "ops/read_rate.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

namespace gossamer {

double host_read_rate(Allocator& allocator, ThreadPool& pool) {
  constexpr std::int64_t kBytes = std::int64_t{256} << 20, kGrain = std::int64_t{1} << 20;
  constexpr int kPasses = 5;
  const Buffer memory(allocator, static_cast<std::size_t>(kBytes));
  auto* const words = static_cast<std::uint64_t*>(memory.data());
  std::memset(words, 1, static_cast<std::size_t>(kBytes));
  std::atomic<std::uint64_t> sink{0};
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto begin = std::chrono::steady_clock::now();
    pool.parallel_for(kBytes / kGrain, 1, [&](std::int64_t first, std::int64_t last) {
      std::uint64_t sums[8] = {};
      for (std::int64_t i = first * (kGrain / 8); i < last * (kGrain / 8); i += 8) {
        for (int lane = 0; lane < 8; ++lane) sums[lane] += words[i + lane];
      }
      sink += sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
    });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    best = std::max(best, static_cast<double>(kBytes) / elapsed.count());
  }
  return best;
}

}  // namespace gossamer
