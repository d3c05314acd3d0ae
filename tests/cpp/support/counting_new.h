// Seen through a replaced operator new (model/counting_new.cpp): which allocations C++ code makes, and what happens when one fails.
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

}  // namespace gossamer::testing
