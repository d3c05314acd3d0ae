#include "core/memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <utility>

#include "support/faults.h"

namespace gossamer {
namespace {

std::uintptr_t address(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

TEST(HostAllocator, AlignsAndCounts) {
  HostAllocator allocator;
  {
    const Buffer empty(allocator, 0);
    const Buffer small(allocator, 100);
    const Buffer large(allocator, std::size_t{5} << 20);
    EXPECT_NE(empty.data(), nullptr);
    EXPECT_EQ(address(small.data()) % kAlignment, 0U);
    EXPECT_EQ(address(large.data()) % (std::size_t{2} << 20), 0U);
    std::memset(large.data(), 1, large.bytes());
    EXPECT_EQ(allocator.live_bytes(), 100 + (5 << 20));
    EXPECT_EQ(allocator.live_blocks(), 3);
  }
  EXPECT_EQ(allocator.live_bytes(), 0);
  EXPECT_EQ(allocator.live_blocks(), 0);
  EXPECT_EQ(allocator.total_allocations(), 3);
}

void expect_out_of_memory(std::size_t bytes) {
  HostAllocator allocator;
  try {
    const Buffer buffer(allocator, bytes);
    FAIL() << bytes << " bytes were allocated";
  } catch (const OutOfMemoryError& error) {
    EXPECT_EQ(error.wanted_bytes, bytes);
    EXPECT_EQ(error.pool, "host");
    EXPECT_GE(error.free_bytes, 0);
  }
  EXPECT_EQ(allocator.live_bytes(), 0);
}

TEST(HostAllocator, RefusesMoreThanAnAddressSpace) { expect_out_of_memory(std::numeric_limits<std::size_t>::max()); }

TEST(HostAllocator, ThrowsInsteadOfReturningNull) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer ends the process instead of letting malloc fail";
#else
  expect_out_of_memory(std::size_t{1} << 60);
#endif
}

TEST(StagingAllocator, LargeBlocksWaitForTheNextOfTheirSize) {
  constexpr std::size_t kLarge = std::size_t{40} << 20;
  StagingAllocator allocator;
  const void* first = nullptr;
  {
    const Buffer large(allocator, kLarge);
    const Buffer small(allocator, 100);
    first = large.data();
    std::memset(large.data(), 1, large.bytes());
  }
  EXPECT_EQ(allocator.live_blocks(), 1);
  const Buffer again(allocator, kLarge - 1000);
  EXPECT_EQ(again.data(), first);
  EXPECT_EQ(again.bytes(), kLarge - 1000);
  const Buffer another(allocator, kLarge);
  EXPECT_NE(another.data(), first);
  EXPECT_EQ(allocator.total_allocations(), 3);
}

TEST(StagingAllocator, KeepsABoundedNumberOfBytesAndBlocks) {
  StagingAllocator allocator;
  for (const std::size_t mib : {600, 200, 210, 220, 400}) Buffer(allocator, mib << 20);  // together too many; the first alone
  EXPECT_EQ(allocator.live_blocks(), 1);
  const std::int64_t before = allocator.total_allocations();
  {
    const Buffer kept(allocator, std::size_t{400} << 20);
  }
  EXPECT_EQ(allocator.total_allocations(), before);
  for (std::size_t mib = 2; mib < 40; ++mib) Buffer(allocator, mib << 20);
  EXPECT_LE(allocator.live_blocks(), 16);
  EXPECT_GT(allocator.live_blocks(), 8);
  EXPECT_LE(allocator.live_bytes(), std::int64_t{512} << 20);
}

TEST(StagingAllocator, GivesBackWhatWaitsBeforeItFails) {
  StagingAllocator allocator;
  {
    const Buffer waits(allocator, std::size_t{64} << 20);
  }
  EXPECT_EQ(allocator.live_blocks(), 1);
  EXPECT_THROW(Buffer(allocator, std::numeric_limits<std::size_t>::max()), OutOfMemoryError);
  EXPECT_EQ(allocator.live_blocks(), 0);
}

TEST(Buffer, MovesItsMemory) {
  HostAllocator allocator;
  Buffer a(allocator, 64);
  Buffer b(allocator, 128);
  void* kept = a.data();
  b = std::move(a);
  EXPECT_EQ(b.data(), kept);
  EXPECT_EQ(allocator.live_blocks(), 1) << "what b held is freed at once";
  const Buffer c(std::move(b));
  EXPECT_EQ(c.data(), kept);
  EXPECT_EQ(c.bytes(), 64U);
  EXPECT_EQ(allocator.live_blocks(), 1);
}

TEST(Buffer, ViewsStayInside) {
  HostAllocator allocator;
  const Buffer buffer(allocator, 64);
  EXPECT_EQ(buffer.view(DType::f32, {2, 4}, 32).raw(), static_cast<std::byte*>(buffer.data()) + 32);
  EXPECT_EQ(buffer.view(DType::f32, {0}, 64).numel(), 0);
  EXPECT_THROW(buffer.view(DType::f32, {2, 4}, 36), InternalError);
  EXPECT_THROW(buffer.view(DType::f32, {1}, 2), InternalError);
  EXPECT_THROW(buffer.view(DType::u8, {1}, std::numeric_limits<std::size_t>::max()), InternalError);
  EXPECT_THROW(Buffer().view(DType::u8, {0}), InternalError);
}

TEST(OwnedTensor, HoldsOneElementWhenItsRankIsZero) {
  HostAllocator allocator;
  const OwnedTensor scalar(allocator, DType::i64, {});
  EXPECT_EQ(scalar.buffer.bytes(), 8U);
  EXPECT_EQ(scalar.view.numel(), 1);
}

TEST(Arena, BumpsAlignedAndGivesBackByScope) {
  HostAllocator allocator;
  Arena arena(allocator, 1000);
  EXPECT_EQ(arena.capacity(), 1024U);
  const Tensor first = arena.take(DType::u8, {3});
  EXPECT_EQ(address(first.raw()) % kAlignment, 0U);
  {
    const Arena::Scope scope(arena);
    const Tensor second = arena.take(DType::f32, {4, 4});
    EXPECT_EQ(address(second.raw()) - address(first.raw()), kAlignment);
    EXPECT_EQ(arena.used(), 128U);
  }
  EXPECT_EQ(arena.used(), 64U);
  EXPECT_EQ(arena.peak(), 128U);
  EXPECT_EQ(allocator.total_allocations(), 1);
  arena.reset();
  EXPECT_EQ(arena.used(), 0U);
  EXPECT_THROW(arena.reset(64), InternalError);
}

TEST(Arena, SaysSoWhenItRunsOut) {
  HostAllocator allocator;
  Arena arena(allocator, 128);
  EXPECT_NO_THROW(arena.take(DType::u8, {128}));
  EXPECT_NO_THROW(arena.take(DType::f32, {0}));
  EXPECT_THROW(arena.take(DType::u8, {1}), InternalError);
  EXPECT_EQ(arena.used(), 128U);
}

TEST(FaultLoop, FailsEachAllocationInTurn) {
  testing::FaultPoint point;
  testing::FailingAllocator allocator(point);
  const auto allocate_three = [&allocator] {
    const Buffer a(allocator, 8);
    const Buffer b(allocator, 16);
    const Buffer c(allocator, 24);
  };
  for (const auto mode : {testing::FaultPoint::Mode::once, testing::FaultPoint::Mode::from_then_on}) {
    const std::int64_t failed = testing::fail_each_call<OutOfMemoryError>(
        point, mode, allocate_three, [&](std::int64_t, const OutOfMemoryError&) { EXPECT_EQ(allocator.live_bytes(), 0); });
    EXPECT_EQ(failed, 3);
  }
  const auto swallow = [&allocator] {
    try {
      const Buffer a(allocator, 8);
    } catch (const OutOfMemoryError&) {
    }
  };
  EXPECT_THROW(testing::fail_each_call<OutOfMemoryError>(point, testing::FaultPoint::Mode::once, swallow, {}), InternalError);
}

}  // namespace
}  // namespace gossamer
