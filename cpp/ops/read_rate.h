// How fast the host's memory can be read.
#pragma once

#include "core/memory.h"
#include "core/thread_pool.h"

namespace gossamer {

// Bytes per second, the best of a few passes of all of the pool's threads over memory that no cache holds.
double host_read_rate(Allocator& allocator, ThreadPool& pool);

}  // namespace gossamer
