#include "kv/block_manager.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "core/error.h"
#include "support/random.h"

namespace gossamer {
namespace {

TEST(BlockManager, GrowsASequenceBlockByBlock) {
  BlockManager blocks(4, 16);
  EXPECT_TRUE(blocks.reserve(7, 1));
  EXPECT_EQ(blocks.table(7).size(), 1U);
  EXPECT_TRUE(blocks.reserve(7, 16));
  EXPECT_EQ(blocks.table(7).size(), 1U);
  EXPECT_TRUE(blocks.reserve(7, 17));
  EXPECT_EQ(blocks.table(7).size(), 2U);
  EXPECT_TRUE(blocks.reserve(7, 3)) << "a smaller need changes nothing";
  EXPECT_EQ(blocks.table(7).size(), 2U);
  EXPECT_EQ(blocks.num_free(), 2);
  EXPECT_EQ(blocks.slot(7, 16), blocks.table(7)[1] * 16);
  EXPECT_EQ(blocks.slot(7, 5), blocks.table(7)[0] * 16 + 5);
}

TEST(BlockManager, ReservesAllOrNothing) {
  BlockManager blocks(3, 4);
  ASSERT_TRUE(blocks.reserve(1, 8));
  EXPECT_FALSE(blocks.reserve(2, 8));
  EXPECT_TRUE(blocks.table(2).empty());
  EXPECT_FALSE(blocks.reserve(1, 100));
  EXPECT_EQ(blocks.table(1).size(), 2U);
  EXPECT_EQ(blocks.num_free(), 1);
  EXPECT_FALSE(blocks.reserve(3, std::numeric_limits<std::int64_t>::max()));
  blocks.check_invariants();
}

TEST(BlockManager, ReleaseIsIdempotent) {
  BlockManager blocks(3, 4);
  ASSERT_TRUE(blocks.reserve(1, 9));
  blocks.release(1);
  blocks.release(1);
  blocks.release(99);
  EXPECT_EQ(blocks.num_free(), 3);
  blocks.check_invariants();
  EXPECT_TRUE(blocks.reserve(2, 12));
}

TEST(BlockManager, RefusesNonsense) {
  EXPECT_THROW(BlockManager(0, 16), InvalidArgument);
  EXPECT_THROW(BlockManager(4, 0), InvalidArgument);
  EXPECT_THROW(BlockManager(std::int64_t{1} << 31, 16), InvalidArgument) << "slots are 32-bit";
  BlockManager blocks(2, 4);
  ASSERT_TRUE(blocks.reserve(1, 4));
  EXPECT_THROW(blocks.slot(1, 4), InternalError);
  EXPECT_THROW(blocks.slot(1, -1), InternalError);
  EXPECT_THROW(blocks.slot(2, 0), InternalError);
  EXPECT_THROW(blocks.reserve(1, -1), InternalError);
}

// A random trace against the obvious model: who holds how many tokens.
TEST(BlockManager, RandomTraceKeepsTheInvariants) {
  constexpr std::int64_t kBlocks = 37;
  constexpr std::int64_t kBlockSize = 5;
  BlockManager blocks(kBlocks, kBlockSize);
  testing::Random random(9);
  std::map<SequenceId, std::int64_t> tokens;  // what each live sequence has reserved
  std::int64_t refused = 0;
  for (int step = 0; step < 20000; ++step) {
    const auto id = static_cast<SequenceId>(random.below(12));
    if (random.below(5) == 0) {
      blocks.release(id);
      tokens.erase(id);
    } else {
      const std::int64_t wanted = tokens[id] + 1 + random.below(random.below(4) == 0 ? 60 : 6);
      std::int64_t used_by_others = 0;
      for (const auto& [other, count] : tokens) used_by_others += other == id ? 0 : blocks.blocks_for(count);
      const bool fits = used_by_others + blocks.blocks_for(wanted) <= kBlocks;
      const std::vector<std::int32_t> before(blocks.table(id).begin(), blocks.table(id).end());
      ASSERT_EQ(blocks.reserve(id, wanted), fits);
      const auto after = blocks.table(id);
      ASSERT_TRUE(std::equal(before.begin(), before.end(), after.begin())) << "blocks in use never move";
      if (fits) tokens[id] = wanted;
      refused += fits ? 0 : 1;
    }
    std::set<std::int32_t> slots;
    std::int64_t total = 0;
    for (const auto& [sequence, count] : tokens) {
      ASSERT_EQ(static_cast<std::int64_t>(blocks.table(sequence).size()), blocks.blocks_for(count));
      if (step % 50 != 0) continue;
      for (std::int64_t p = 0; p < count; ++p) slots.insert(blocks.slot(sequence, p));
      total += count;
    }
    ASSERT_EQ(static_cast<std::int64_t>(slots.size()), total) << "no slot belongs to two tokens";
    ASSERT_NO_THROW(blocks.check_invariants());
  }
  EXPECT_GT(refused, 100) << "the trace never filled the pool";
  for (SequenceId id = 0; id < 12; ++id) blocks.release(id);
  EXPECT_EQ(blocks.num_free(), kBlocks);
}

}  // namespace
}  // namespace gossamer
