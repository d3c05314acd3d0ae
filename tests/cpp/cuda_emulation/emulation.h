// Runs kernels on the host, a block at a time and its threads as coroutines, so that their arithmetic and index maps can be tested without
// a GPU: shuffles, ballots and matrix instructions see all lanes of a warp, as they do there. What it cannot show is what depends on time:
// missing barriers mostly do not fail here. Includes the toolkit's headers, which a host compiler takes, and gives the kernels' words a
// meaning.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <vector>

// The language's own spellings cannot be had without macros: one block runs at a time, so that what it shares may be static.
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__

namespace gossamer::emulation {

struct Index {
  unsigned x = 1, y = 1, z = 1;
};

inline constexpr int kWords = 8;  // that a lane may show its warp at once
using Lanes = std::array<std::array<std::uint64_t, kWords>, 32>;

struct Warp {
  std::array<Lanes, 2> shown{};  // in turn: a lane may be one exchange ahead of another
  int arrived = 0;
  std::int64_t exchanges = 0;
};

struct Thread {
  ucontext_t context{};
  std::vector<std::byte> stack = std::vector<std::byte>(std::size_t{64} << 10);
  Index index;
  bool is_done = false;
};

struct Block {
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  int live = 0, arrived = 0;
  std::int64_t barriers = 0;
  ucontext_t scheduler{};
  Thread* running = nullptr;
  const std::function<void()>* kernel = nullptr;
};

inline Block* block = nullptr;
inline Index thread_index, block_index, block_size, grid_size;
alignas(128) inline std::array<std::uint8_t, std::size_t{1} << 18> dynamic_memory;

inline int lane() { return static_cast<int>(thread_index.x % 32); }

inline void yield() {
  Thread* const self = block->running;
  swapcontext(&self->context, &block->scheduler);
  thread_index = self->index;
}

inline void sync_threads() {
  const std::int64_t before = block->barriers;
  if (++block->arrived == block->live) {
    block->arrived = 0;
    ++block->barriers;
  }
  while (block->barriers == before) yield();
}

// Shows words to the warp and returns what every lane showed, once all 32 have come.
template <class... Words>
const Lanes& exchange(Words... words) {
  static_assert(sizeof...(words) <= kWords);
  Warp& warp = block->warps[thread_index.x / 32];
  const std::int64_t before = warp.exchanges;
  Lanes& shown = warp.shown[static_cast<std::size_t>(before % 2)];
  shown[static_cast<std::size_t>(lane())] = {static_cast<std::uint64_t>(words)...};
  if (++warp.arrived == 32) {
    warp.arrived = 0;
    ++warp.exchanges;
  }
  while (warp.exchanges == before) yield();
  return shown;
}

template <class T>
T from_lane(T value, int source) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t) && std::is_trivially_copyable_v<T>);
  std::uint64_t word = 0;
  std::memcpy(&word, &value, sizeof value);
  const std::uint64_t theirs = exchange(word)[static_cast<std::size_t>(source)][0];
  std::memcpy(&value, &theirs, sizeof value);
  return value;
}

inline void run_thread() {
  thread_index = block->running->index;
  (*block->kernel)();
  block->running->is_done = true;
  --block->live;
  if (block->live > 0 && block->arrived == block->live) {  // the others wait for no one else
    block->arrived = 0;
    ++block->barriers;
  }
  swapcontext(&block->running->context, &block->scheduler);
}

inline std::unique_ptr<Thread> make_thread(unsigned t) {
  auto thread = std::make_unique<Thread>();
  thread->index = {t, 0, 0};
  getcontext(&thread->context);
  thread->context.uc_stack.ss_sp = thread->stack.data();
  thread->context.uc_stack.ss_size = thread->stack.size();
  makecontext(&thread->context, run_thread, 0);
  return thread;
}

inline void run_block(unsigned threads, const std::function<void()>& kernel) {
  Block own;
  block = &own;
  own.warps.resize(threads / 32);
  own.live = static_cast<int>(threads);
  own.kernel = &kernel;
  dynamic_memory.fill(0xff);  // NaN, whatever reads it as halves or floats
  for (unsigned t = 0; t < threads; ++t) own.threads.push_back(make_thread(t));
  constexpr int kMostRounds = 1 << 20;
  for (int round = 0; own.live > 0; ++round) {
    if (round == kMostRounds) throw std::runtime_error("the kernel's threads wait for one another");
    for (const auto& thread : own.threads) {
      if (thread->is_done) continue;
      own.running = thread.get();
      swapcontext(&own.scheduler, &thread->context);
    }
  }
  block = nullptr;
}

// threads: a multiple of 32.
inline void launch(Index grid, unsigned threads, const std::function<void()>& kernel) {
  grid_size = grid;
  block_size = {threads, 1, 1};
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = {x, y, z};
        run_block(threads, kernel);
      }
    }
  }
}

}  // namespace gossamer::emulation

#define threadIdx gossamer::emulation::thread_index
#define blockIdx gossamer::emulation::block_index
#define blockDim gossamer::emulation::block_size
#define gridDim gossamer::emulation::grid_size

inline void __syncthreads() { gossamer::emulation::sync_threads(); }
inline void __syncwarp() { gossamer::emulation::exchange(0); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return gossamer::emulation::from_lane(value, gossamer::emulation::lane() ^ mask);
}
template <class T>
T __shfl_sync(unsigned, T value, int source) {
  return gossamer::emulation::from_lane(value, source % 32);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int distance) {
  const int lane = gossamer::emulation::lane();
  return gossamer::emulation::from_lane(value, lane >= distance ? lane - distance : lane);
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  unsigned votes = 0;
  const gossamer::emulation::Lanes& lanes = gossamer::emulation::exchange(vote ? 1 : 0);
  for (unsigned i = 0; i < 32; ++i) votes |= static_cast<unsigned>(lanes[i][0]) << i;
  return votes;
}
inline int __popcll(std::uint64_t x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float rsqrtf(float x) { return 1.0F / std::sqrt(x); }
template <class T>
T __ldg(const T* address) {
  return *address;
}

namespace gossamer {
using std::max;
using std::min;
}  // namespace gossamer
