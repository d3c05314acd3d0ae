// Fail the k-th call for k = 1, 2, ... until the operation completes: one runner for allocations, reads and whatever else can fail.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "core/memory.h"

namespace gossamer::testing {

// Counts calls; says which of them must fail. Thread-safe.
class FaultPoint {
 public:
  enum class Mode { once, from_then_on };

  void arm(std::int64_t fail_at, Mode mode) {
    calls_ = 0;
    fail_at_ = fail_at;
    mode_ = mode;
  }
  void disarm() { fail_at_ = 0; }
  bool should_fail() {
    const std::int64_t call = ++calls_;
    if (fail_at_ == 0) return false;
    return mode_ == Mode::once ? call == fail_at_ : call >= fail_at_;
  }
  std::int64_t calls() const { return calls_; }

 private:
  std::atomic<std::int64_t> calls_{0};
  std::int64_t fail_at_ = 0;
  Mode mode_ = Mode::once;
};

// Runs operation() with the k-th call failing, k = 1, 2, ...; it must throw Expected (then after_failure(k) looks around) until k is past
// its last call, when it must succeed. Returns how many calls were failed; any other exception passes through.
template <typename Expected>
std::int64_t fail_each_call(FaultPoint& point, FaultPoint::Mode mode, const std::function<void()>& operation,
                            const std::function<void(std::int64_t k, const Expected& error)>& after_failure) {
  for (std::int64_t k = 1;; ++k) {
    point.arm(k, mode);
    try {
      operation();
    } catch (const Expected& error) {
      point.disarm();
      after_failure(k, error);
      continue;
    }
    const bool failed_silently = point.calls() >= k;
    point.disarm();
    check(!failed_silently, "the operation swallowed a failed call");
    return k - 1;
  }
}

// Host memory whose k-th allocation fails.
class FailingAllocator final : public Allocator {
 public:
  explicit FailingAllocator(FaultPoint& point) : point_(point) {}
  void* allocate(std::size_t bytes) override {
    if (point_.should_fail()) throw OutOfMemoryError(bytes, 0, "host", "This failure was injected by a test");
    return host_.allocate(bytes);
  }
  void deallocate(void* pointer, std::size_t bytes) noexcept override { host_.deallocate(pointer, bytes); }
  Device device() const override { return host_.device(); }
  std::int64_t live_bytes() const override { return host_.live_bytes(); }
  std::int64_t live_blocks() const override { return host_.live_blocks(); }
  std::int64_t total_allocations() const override { return host_.total_allocations(); }

 private:
  FaultPoint& point_;
  HostAllocator host_;
};

}  // namespace gossamer::testing
