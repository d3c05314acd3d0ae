// Damage that a loop can make: every truncation, every changed byte, every failed allocation, every failed read.
#include <gtest/gtest.h>

#include "support/tiny_checkpoint.h"

namespace gossamer {
namespace {

using testing::Contents;
using testing::FaultPoint;
using testing::Files;
using testing::load;
using testing::TestCheckpoint;
using testing::tiny_checkpoint;

class CheckpointFaultsTest : public ::testing::Test {
 protected:
  // An error of the contract, or exactly what the intact files give.
  bool rejected(const Files& files, Verify verify) {
    try {
      const Contents contents = load(files, allocator_, pool_, verify);
      EXPECT_EQ(contents, original_) << "loaded with other contents";
      return false;
    } catch (const CheckpointError& error) {
      EXPECT_STRNE(error.what(), "");
      return true;
    }
  }

  HostAllocator allocator_;
  ThreadPool pool_{1};
  TestCheckpoint checkpoint_ = tiny_checkpoint();
  const Files files_ = checkpoint_.build();
  const Contents original_ = load(files_, allocator_, pool_);
};

TEST_F(CheckpointFaultsTest, EveryTruncationIsAnError) {
  for (const auto& [name, intact] : files_) {
    Files files = files_;
    for (std::size_t length = 0; length < intact.size(); ++length) {
      files[name] = intact.substr(0, length);
      ASSERT_TRUE(rejected(files, Verify::header)) << name << " cut to " << length;
    }
    files.erase(name);
    ASSERT_TRUE(rejected(files, Verify::header)) << "without " << name;
  }
}

// The same with digests and sizes that match, so that the shard's own structure has to give it away.
TEST_F(CheckpointFaultsTest, EveryTruncationOfAShardIsAnErrorEvenWithMatchingDigests) {
  for (const char* name : {"a.safetensors", "b.safetensors"}) {
    for (std::size_t length = 0; length < files_.at(name).size(); ++length) {
      TestCheckpoint checkpoint = checkpoint_;
      Files files = checkpoint.contents();
      files[name].resize(length);
      checkpoint.describe(files);
      ASSERT_TRUE(rejected(checkpoint.seal(files), Verify::full)) << name << " cut to " << length;
    }
  }
}

TEST_F(CheckpointFaultsTest, EveryChangeOfAByteOfAShardHeaderIsAnErrorOrHarmless) {
  std::int64_t harmless = 0;
  for (const auto& [name, shard] : checkpoint_.shards) {
    Files files = files_;
    std::string& text = files[name];
    const std::size_t header_end = 8 + shard.header_text().size();
    for (std::size_t i = 0; i < header_end; ++i) {
      const char original = text[i];
      for (int change = 1; change < 256; ++change) {
        text[i] = static_cast<char>(original ^ change);
        // Without digests only the structure speaks; with them every change is seen.
        harmless += rejected(files, Verify::header) ? 0 : 1;
        ASSERT_FALSE(HasFailure()) << name << " byte " << i << " ^ " << change;
      }
      text[i] = static_cast<char>(original ^ 1);
      ASSERT_TRUE(rejected(files, Verify::full)) << name << " byte " << i;
      text[i] = original;
    }
  }
  EXPECT_EQ(harmless, 0) << "a compact header has no byte that does not matter";
}

TEST_F(CheckpointFaultsTest, EveryChangeOfAByteOfTheManifestIsAnError) {
  Files files = files_;
  std::string& text = files["gossamer.json"];
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char original = text[i];
    for (int change = 1; change < 256; ++change) {
      text[i] = static_cast<char>(original ^ change);
      ASSERT_TRUE(rejected(files, Verify::header)) << "byte " << i << " ^ " << change;
    }
    text[i] = original;
  }
}

// A forger can make the digest match; then a change may alter what is informative, never the tensors or files.
TEST_F(CheckpointFaultsTest, EveryFlippedBitOfTheManifestWithItsDigestMadeToMatch) {
  const std::string json = checkpoint_.manifest.dump();
  Files files = files_;
  std::int64_t accepted = 0;
  for (std::size_t i = 1; i < json.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string changed = json;
      changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
      files["gossamer.json"] = testing::with_digest(changed);
      accepted += rejected(files, Verify::header) ? 0 : 1;
      ASSERT_FALSE(HasFailure()) << "byte " << i << " bit " << bit << ": " << changed;
    }
  }
  EXPECT_GT(accepted, 0) << "producer and source may be anything";
}

TEST_F(CheckpointFaultsTest, EveryChangedByteOfDataIsAChecksumError) {
  for (const auto& [name, shard] : checkpoint_.shards) {
    Files files = files_;
    std::string& text = files[name];
    for (std::size_t i = text.size() - shard.data.size(); i < text.size(); ++i) {
      text[i] = static_cast<char>(text[i] ^ 0x10);
      ASSERT_THROW(load(files, allocator_, pool_), ChecksumError) << name << " byte " << i;
      text[i] = static_cast<char>(text[i] ^ 0x10);
    }
  }
}

TEST_F(CheckpointFaultsTest, EveryFailedAllocationIsReportedAndLeaksNothing) {
  FaultPoint point;
  testing::FailingAllocator failing(point);
  for (const auto mode : {FaultPoint::Mode::once, FaultPoint::Mode::from_then_on}) {
    const std::int64_t failed = testing::fail_each_call<OutOfMemoryError>(
        point, mode, [&] { load(files_, failing, pool_); },
        [&](std::int64_t k, const OutOfMemoryError&) {
          EXPECT_EQ(failing.live_bytes(), 0) << k;
          EXPECT_EQ(load(files_, failing, pool_), original_) << "the next load is right";
        });
    EXPECT_EQ(failed, 5) << "mask, values and offsets of one weight, two dense tensors";
  }
}

TEST_F(CheckpointFaultsTest, EveryFailedOpenOrReadIsReportedAndLeaksNothing) {
  FaultPoint point;
  for (const auto mode : {FaultPoint::Mode::once, FaultPoint::Mode::from_then_on}) {
    const std::int64_t failed = testing::fail_each_call<CheckpointError>(
        point, mode, [&] { load(files_, allocator_, pool_, Verify::full, &point); },
        [&](std::int64_t k, const CheckpointError& error) {
          EXPECT_NE(std::string(error.what()).find("Input/output error"), std::string::npos) << error.what();
          EXPECT_FALSE(error.fault().file.empty());
          EXPECT_EQ(allocator_.live_bytes(), 0) << k;
        });
    EXPECT_GT(failed, 15);
  }
}

// A read that failed must not leave its chunk marked as verified: the same open checkpoint reads it again, whole.
TEST_F(CheckpointFaultsTest, AReadCanBeTriedAgain) {
  FaultPoint point;
  Files files = files_;
  const Checkpoint checkpoint = Checkpoint::open(std::make_unique<testing::MemoryDirectory>(files, &point), "tiny");
  point.arm(1, FaultPoint::Mode::once);
  EXPECT_THROW(testing::read_all(checkpoint, allocator_, pool_), CheckpointError);
  point.disarm();
  EXPECT_EQ(testing::read_all(checkpoint, allocator_, pool_), original_);
}

}  // namespace
}  // namespace gossamer
