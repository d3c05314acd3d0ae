// Each named malformed checkpoint gives its error, of its type, with its text, without asking for memory that its files do not justify.
#include <gtest/gtest.h>

#include <set>
#include <typeinfo>

#include "support/counting_new.h"
#include "support/malformed_cases.h"
#include "support/tiny_checkpoint.h"

namespace gossamer {
namespace {

using testing::Fault;
using testing::Files;
using testing::MalformedCase;

const std::type_info& type_of(Fault fault) {
  switch (fault) {
    case Fault::checksum: return typeid(ChecksumError);
    case Fault::version: return typeid(CheckpointVersionError);
    case Fault::unsafe_path: return typeid(UnsafePathError);
    case Fault::malformed: break;
  }
  return typeid(CheckpointError);
}

bool has_control_character(const std::string& text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
}

void expect_error(const MalformedCase& malformed) {
  SCOPED_TRACE(malformed.name);
  const Files files = malformed.make();
  std::size_t file_bytes = 0;
  for (const auto& [name, text] : files) file_bytes += text.size();
  HostAllocator allocator;
  ThreadPool pool(1);
  testing::new_counters().largest = 0;
  try {
    testing::load(files, allocator, pool);
    ADD_FAILURE() << "loaded";
  } catch (const CheckpointError& error) {
    const std::string text = error.what();
    EXPECT_EQ(typeid(error), type_of(malformed.fault)) << typeid(error).name() << ": " << text;
    EXPECT_NE(text.find(malformed.text), std::string::npos) << text;
    EXPECT_FALSE(error.fault().file.empty()) << text;
    EXPECT_FALSE(has_control_character(text)) << text;
    EXPECT_LT(text.size(), 2000U);
  }
  // A parsed JSON value takes up to 40 times the bytes of its text ("0,"); nothing else is larger than the file it comes from.
  EXPECT_LE(testing::new_counters().largest, 64 * file_bytes + 65536);
  EXPECT_EQ(allocator.live_bytes(), 0);
}

TEST(MalformedCheckpoint, Manifests) {
  for (const MalformedCase& malformed : testing::malformed_manifests()) expect_error(malformed);
}

TEST(MalformedCheckpoint, Shards) {
  for (const MalformedCase& malformed : testing::malformed_shards()) expect_error(malformed);
}

TEST(MalformedCheckpoint, Weights) {
  for (const MalformedCase& malformed : testing::malformed_weights()) expect_error(malformed);
}

TEST(MalformedCheckpoint, Scales) {
  for (const MalformedCase& malformed : testing::malformed_scales()) expect_error(malformed);
}

TEST(MalformedCheckpoint, CasesHaveNamesOfTheirOwn) {
  std::set<std::string> names;
  for (const auto& cases :
       {testing::malformed_manifests(), testing::malformed_shards(), testing::malformed_weights(), testing::malformed_scales()}) {
    for (const MalformedCase& malformed : cases) EXPECT_TRUE(names.insert(malformed.name).second) << malformed.name;
  }
  EXPECT_GE(names.size(), 60U);
}

// 10^5 tensors are many, not wrong.
TEST(MalformedCheckpoint, ManyTensorsAreNotAnError) {
  testing::TestCheckpoint checkpoint = testing::tiny_checkpoint();
  std::string header = checkpoint.shards.at("b.safetensors").header.dump();
  header.pop_back();
  std::string data = checkpoint.shards.at("b.safetensors").data;
  std::string records;
  for (int i = 0; i < 100000; ++i) {
    const std::string name = "\"t" + std::to_string(i) + "\"";
    header += "," + name + R"(:{"dtype":"F16","shape":[1],"data_offsets":[)" + std::to_string(data.size()) + "," +
              std::to_string(data.size() + 2) + "]}";
    records += name + R"(:{"encoding":"dense","dtype":"f16","shape":[1],"shard":"b.safetensors"},)";
    data += "ab";
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  Files files = checkpoint.contents();
  files["b.safetensors"] = testing::TestShard::length_bytes(header.size()) + header + data;
  checkpoint.describe(files);
  std::string manifest = checkpoint.manifest.dump();
  manifest.insert(manifest.find("\"fc.weight\""), records);
  files["gossamer.json"] = testing::with_digest(manifest);
  const Checkpoint opened = Checkpoint::open(std::make_unique<testing::MemoryDirectory>(files), "many");
  EXPECT_EQ(opened.manifest().tensors.size(), 100003U);
}

// The k-th operator new of open() and of every read fails: std::bad_alloc comes out, and no block stays behind.
TEST(CheckpointMemory, EveryFailedNewIsReportedAndLeaksNothing) {
  HostAllocator allocator;
  ThreadPool pool(1);
  const Files files = testing::tiny_checkpoint().build();
  auto& counters = testing::new_counters();
  testing::FaultPoint point;
  const std::function<void()> operation = [&] {
    counters.faults = &point;
    struct Disarm {
      ~Disarm() { testing::new_counters().faults = nullptr; }
    } disarm;
    testing::load(files, allocator, pool);
  };
  std::int64_t baseline = counters.live_blocks;
  const std::function<void(std::int64_t, const std::bad_alloc&)> after = [&](std::int64_t k, const std::bad_alloc&) {
    ASSERT_EQ(counters.live_blocks, baseline) << k;
    ASSERT_EQ(allocator.live_bytes(), 0) << k;
  };
  for (const auto mode : {testing::FaultPoint::Mode::once, testing::FaultPoint::Mode::from_then_on}) {
    baseline = counters.live_blocks;
    EXPECT_GT(testing::fail_each_call(point, mode, operation, after), 100);
  }
}

}  // namespace
}  // namespace gossamer
