// Seen through a replaced operator new (counting_new.cpp, in the test programs that need it): which allocations C++ code makes, and what
// happens when one fails.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "support/faults.h"

namespace gossamer::testing {

struct NewCounters {
  std::atomic<std::int64_t> live_blocks{0};
  std::atomic<std::size_t> largest{0};       // bytes; reset by whoever asks
  std::atomic<FaultPoint*> faults{nullptr};  // the k-th operator new throws std::bad_alloc
};
NewCounters& new_counters();

// While it lives, every operator new of any thread counts at its point and fails when the point says so.
class NewHook {
 public:
  explicit NewHook(FaultPoint& point) { new_counters().faults = &point; }
  ~NewHook() { new_counters().faults = nullptr; }
  NewHook(const NewHook&) = delete;
  NewHook& operator=(const NewHook&) = delete;
};

}  // namespace gossamer::testing
