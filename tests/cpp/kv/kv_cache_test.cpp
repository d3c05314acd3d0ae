#include "kv/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "support/faults.h"

namespace gossamer {
namespace {

constexpr KvCacheShape kShape{.num_layers = 3, .num_blocks = 4, .block_size = 2, .num_kv_heads = 5, .head_dim = 6, .dtype = DType::bf16};

TEST(KvCache, IsOneAllocationOfDisjointPages) {
  HostAllocator allocator;
  const KvCache cache(allocator, kShape);
  EXPECT_EQ(kShape.bytes_per_block(), 2 * 3 * 2 * 5 * 6 * 2);
  EXPECT_EQ(cache.nbytes(), 4 * kShape.bytes_per_block());
  EXPECT_EQ(allocator.live_blocks(), 1);
  unsigned char mark = 0;
  for (std::int64_t i = 0; i < 3; ++i) {
    for (const Tensor& part : {cache.layer(i).keys, cache.layer(i).values}) {
      EXPECT_EQ(part.to_string(), "bf16[4, 5, 2, 6] on cpu");
      std::memset(part.raw(), ++mark, static_cast<std::size_t>(part.nbytes()));
    }
  }
  mark = 0;
  for (std::int64_t i = 0; i < 3; ++i) {  // no page overwrote another
    for (const Tensor& part : {cache.layer(i).keys, cache.layer(i).values}) {
      ++mark;
      const auto* bytes = static_cast<const unsigned char*>(part.raw());
      EXPECT_TRUE(std::all_of(bytes, bytes + part.nbytes(), [mark](unsigned char b) { return b == mark; }));
    }
  }
}

TEST(KvCache, NamesTheKnobWhenMemoryRunsOut) {
  testing::FaultPoint point;
  testing::FailingAllocator allocator(point);
  point.arm(1, testing::FaultPoint::Mode::once);
  try {
    const KvCache cache(allocator, kShape);
    FAIL();
  } catch (const OutOfMemoryError& error) {
    EXPECT_EQ(error.pool, "kv cache");
    EXPECT_NE(std::string(error.what()).find("kv_cache_memory"), std::string::npos);
  }
}

TEST(KvCache, RefusesShapesThatOverflow) {
  HostAllocator allocator;
  KvCacheShape shape = kShape;
  shape.head_dim = std::numeric_limits<std::int64_t>::max() / 4;
  EXPECT_THROW(shape.bytes_per_block(), InvalidArgument);
  shape = kShape;
  shape.num_blocks = std::numeric_limits<std::int64_t>::max() / 8;
  EXPECT_THROW(KvCache(allocator, shape), InvalidArgument);
  shape = kShape;
  shape.num_blocks = -1;
  EXPECT_THROW(KvCache(allocator, shape), InvalidArgument);
  shape = kShape;
  shape.dtype = DType::i64;
  EXPECT_THROW(KvCache(allocator, shape), InvalidArgument);
}

}  // namespace
}  // namespace gossamer
