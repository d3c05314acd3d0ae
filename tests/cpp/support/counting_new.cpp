#include "support/counting_new.h"

#include <cstdlib>
#include <new>

namespace gossamer::testing {

NewCounters& new_counters() {
  static NewCounters counters;
  return counters;
}

}  // namespace gossamer::testing

namespace {

void* counted_allocate(std::size_t bytes) {
  auto& counters = gossamer::testing::new_counters();
  gossamer::testing::FaultPoint* faults = counters.faults;
  if (faults != nullptr && faults->should_fail()) throw std::bad_alloc();
  void* pointer = std::malloc(bytes == 0 ? 1 : bytes);
  if (pointer == nullptr) throw std::bad_alloc();
  ++counters.live_blocks;
  for (std::size_t seen = counters.largest; bytes > seen && !counters.largest.compare_exchange_weak(seen, bytes);) {
  }
  return pointer;
}

void counted_free(void* pointer) noexcept {
  if (pointer == nullptr) return;
  --gossamer::testing::new_counters().live_blocks;
  std::free(pointer);
}

}  // namespace

void* operator new(std::size_t bytes) { return counted_allocate(bytes); }
void* operator new[](std::size_t bytes) { return counted_allocate(bytes); }
// Sanitizers replace these two on their own, and then find our delete wrong for them.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return counted_allocate(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void* operator new[](std::size_t bytes, const std::nothrow_t& tag) noexcept { return operator new(bytes, tag); }
void operator delete(void* pointer) noexcept { counted_free(pointer); }
void operator delete[](void* pointer) noexcept { counted_free(pointer); }
void operator delete(void* pointer, std::size_t) noexcept { counted_free(pointer); }
void operator delete[](void* pointer, std::size_t) noexcept { counted_free(pointer); }
