// A small fixed pool of std::threads for data-parallel loops. The caller takes part; no nesting.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace gossamer {

class ThreadPool {
 public:
  // num_threads counts the caller; 0 = all available cores (affinity mask and cgroup quota respected).
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  // Runs body(begin, end) over [0, count) in chunks of `grain` taken dynamically; returns when all are done. The first exception
  // is rethrown. Allocates nothing. Which thread runs a chunk must not change its result.
  template <typename Body>
  void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
    run(count, grain, [](const void* self, std::int64_t begin, std::int64_t end) { (*static_cast<const Body*>(self))(begin, end); }, &body);
  }

 private:
  using Trampoline = void (*)(const void*, std::int64_t, std::int64_t);
  void run(std::int64_t count, std::int64_t grain, Trampoline call, const void* body);
  struct State;
  std::unique_ptr<State> state_;
};

// memcpy by all threads.
void copy_bytes(void* to, const void* from, std::int64_t bytes, ThreadPool& pool);

int available_cores();

}  // namespace gossamer
