#include "core/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <exception>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/worker_thread.h"

namespace gossamer {

namespace {

constexpr int kMaxThreads = 1024;
// How long a thread polls before it sleeps: longer than the serial gaps between the regions of one decode step, and short enough
// that an idle pool costs nothing.
constexpr auto kSpinTime = std::chrono::microseconds(60);

void pause_core() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Polls until ready() or the time is over; true when ready.
template <typename Ready>
bool spin_until(bool may_spin, const Ready& ready) {
  if (ready()) return true;
  if (!may_spin) return false;
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 16; ++i) {
      pause_core();
      if (ready()) return true;
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

// The pool whose chunk this thread is running, to refuse nesting instead of hanging.
thread_local const void* running_pool = nullptr;

}  // namespace

struct ThreadPool::State {
  // One word says whether a job is open and how many workers are in it: epoch << 32 | open | active. A worker enters by adding 1
  // while the job is open; the caller closes the job and then waits for active = 0, so it never waits for a sleeping worker.
  static constexpr std::uint64_t kOpen = std::uint64_t{1} << 31;
  static constexpr std::uint64_t kActiveMask = kOpen - 1;
  static constexpr std::uint64_t kEpoch = std::uint64_t{1} << 32;

  alignas(64) std::atomic<std::uint64_t> word{0};
  alignas(64) std::atomic<std::int64_t> next{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> caller_sleeps{false};
  std::atomic<bool> stop{false};

  // The open job: written by the caller before it opens, read by workers that entered.
  Trampoline call = nullptr;
  const void* body = nullptr;
  std::int64_t count = 0;
  std::int64_t grain = 1;

  std::mutex mutex;  // sleeping and waking
  std::condition_variable wake_workers;
  std::condition_variable wake_caller;
  std::mutex error_mutex;
  std::exception_ptr error;
  std::mutex run_mutex;  // one region at a time
  bool may_spin = true;
  std::vector<std::thread> workers;

  ~State() { join(); }
  void join();
  void work();
  void run_chunks();
  void open(std::int64_t chunks);
  void close_and_wait();
};

void ThreadPool::State::join() {
  stop.store(true);
  {
    const std::lock_guard lock(mutex);
    wake_workers.notify_all();
  }
  for (std::thread& worker : workers) worker.join();
  workers.clear();
}

void ThreadPool::State::work() {
  std::uint64_t seen = 0;  // epoch of the last job this worker looked at
  const auto changed = [&] { return word.load() / kEpoch != seen || stop.load(); };
  for (;;) {
    if (!spin_until(may_spin, changed)) {
      std::unique_lock lock(mutex);
      sleepers.fetch_add(1);
      wake_workers.wait(lock, changed);
      sleepers.fetch_sub(1);
    }
    if (stop.load()) return;
    std::uint64_t now = word.load();
    bool entered = false;
    while ((now & kOpen) != 0 && !entered) entered = word.compare_exchange_weak(now, now + 1);
    seen = now / kEpoch;
    if (!entered) continue;
    run_chunks();
    const std::uint64_t left = word.fetch_sub(1) - 1;
    if ((left & (kOpen | kActiveMask)) == 0 && caller_sleeps.load()) {
      const std::lock_guard lock(mutex);
      wake_caller.notify_one();
    }
  }
}

void ThreadPool::State::run_chunks() {
  running_pool = this;
  try {
    for (;;) {
      const std::int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) break;
      call(body, begin, std::min(begin + grain, count));
    }
  } catch (...) {
    next.store(count, std::memory_order_relaxed);
    const std::lock_guard lock(error_mutex);
    if (!error) error = std::current_exception();
  }
  running_pool = nullptr;
}

void ThreadPool::State::open(std::int64_t chunks) {
  next.store(0, std::memory_order_relaxed);
  word.store((word.load() / kEpoch + 1) * kEpoch | kOpen);
  const std::int64_t asleep = sleepers.load();
  if (asleep == 0) return;
  const std::lock_guard lock(mutex);
  if (chunks - 1 >= asleep) {
    wake_workers.notify_all();
  } else {
    for (std::int64_t i = 1; i < chunks; ++i) wake_workers.notify_one();
  }
}

void ThreadPool::State::close_and_wait() {
  word.fetch_and(~kOpen);
  const auto done = [&] { return (word.load() & kActiveMask) == 0; };
  if (spin_until(may_spin, done)) return;
  std::unique_lock lock(mutex);
  caller_sleeps.store(true);
  wake_caller.wait(lock, done);
  caller_sleeps.store(false);
}

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  require(num_threads >= 0 && num_threads <= kMaxThreads,
          "num_threads is " + std::to_string(num_threads) + "; it must be 0 (all available cores) to " + std::to_string(kMaxThreads));
  const int cores = available_cores();
  const int total = num_threads == 0 ? cores : num_threads;
  state_->may_spin = total <= cores;
  state_->workers.reserve(static_cast<std::size_t>(total - 1));
  for (int i = 1; i < total; ++i) {
    try {
      state_->workers.push_back(start_worker([state = state_.get()] { state->work(); }));
    } catch (const std::system_error& error) {
      throw Error("cannot start thread " + std::to_string(i + 1) + " of " + std::to_string(total) + ": " + error.what() +
                  "; use fewer threads (num_threads) or raise the process limit (ulimit -u)");
    }
  }
}

ThreadPool::~ThreadPool() = default;

int ThreadPool::size() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::run(std::int64_t count, std::int64_t grain, Trampoline call, const void* body) {
  check(grain > 0, "ThreadPool: grain must be positive");
  if (count <= 0) return;
  State& state = *state_;
  check(running_pool != &state, "ThreadPool: parallel_for inside parallel_for of the same pool");
  if (count <= grain || state.workers.empty()) {
    for (std::int64_t begin = 0; begin < count; begin += grain) call(body, begin, std::min(begin + grain, count));
    return;
  }
  const std::lock_guard lock(state.run_mutex);
  state.call = call;
  state.body = body;
  state.count = count;
  state.grain = grain;
  state.open((count + grain - 1) / grain);
  state.run_chunks();
  state.close_and_wait();
  if (state.error) std::rethrow_exception(std::exchange(state.error, nullptr));
}

void copy_bytes(void* to, const void* from, std::int64_t bytes, ThreadPool& pool) {
  constexpr std::int64_t kGrain = std::int64_t{1} << 20;
  pool.parallel_for(bytes, kGrain, [to, from](std::int64_t begin, std::int64_t end) {
    std::memcpy(static_cast<std::byte*>(to) + begin, static_cast<const std::byte*>(from) + begin, static_cast<std::size_t>(end - begin));
  });
}

}  // namespace gossamer
