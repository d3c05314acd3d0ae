#include "engine/new_hook.h"

#include <cstdlib>
#include <new>

namespace gossamer {

namespace {

std::atomic<testing::FaultPoint*> active_point{nullptr};

}  // namespace

NewHook::NewHook(testing::FaultPoint& point) { active_point = &point; }
NewHook::~NewHook() { active_point = nullptr; }

void* hooked_new(std::size_t bytes) {
  testing::FaultPoint* const point = active_point;
  if (point != nullptr && point->should_fail()) throw std::bad_alloc();
  void* const pointer = std::malloc(bytes == 0 ? 1 : bytes);
  if (pointer == nullptr) throw std::bad_alloc();
  return pointer;
}

}  // namespace gossamer

void* operator new(std::size_t bytes) { return gossamer::hooked_new(bytes); }
void* operator new[](std::size_t bytes) { return gossamer::hooked_new(bytes); }
void operator delete(void* pointer) noexcept { std::free(pointer); }
void operator delete[](void* pointer) noexcept { std::free(pointer); }
void operator delete(void* pointer, std::size_t) noexcept { std::free(pointer); }
void operator delete[](void* pointer, std::size_t) noexcept { std::free(pointer); }
