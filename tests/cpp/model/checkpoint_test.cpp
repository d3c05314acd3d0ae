#include "model/checkpoint.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "model/manifest.h"
#include "support/tiny_checkpoint.h"

namespace gossamer {
namespace {

using testing::Files;
using testing::load;
using testing::MemoryDirectory;
using testing::TestCheckpoint;
using testing::tiny_checkpoint;
namespace fs = std::filesystem;

Checkpoint open_in_memory(const Files& files, Verify verify = Verify::full) {
  return Checkpoint::open(std::make_unique<MemoryDirectory>(files), "tiny", verify);
}

template <typename Expected, typename Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const Expected& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error of the expected type";
  return {};
}

TEST(Checkpoint, ReadsWhatWasWritten) {
  HostAllocator allocator;
  ThreadPool pool(2);
  testing::Random random(31);
  TestCheckpoint written;
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::int64_t cols : {1, 8, 13, 64}) {
      const OwnedTensor matrix = testing::random_matrix(allocator, dtype, 7, cols, 0.5, random);
      const std::string name = std::string(name_of(dtype)) + "." + std::to_string(cols);
      written.add_dense("dense.safetensors", name + ".dense", matrix.view);
      written.add_sparse("sparse.safetensors", name + ".weight", sparse_from_dense(matrix.view, allocator).view);
    }
  }
  const Files files = written.build();
  for (const Verify verify : {Verify::full, Verify::header}) {
    const Checkpoint checkpoint = open_in_memory(files, verify);
    EXPECT_EQ(checkpoint.manifest().tensors.size(), 24U);
    for (const auto& [name, record] : checkpoint.manifest().tensors) {
      if (!name.ends_with(".weight")) continue;
      const OwnedTensor dense = checkpoint.read_dense(name.substr(0, name.size() - 7) + ".dense", allocator, pool);
      const OwnedSparseWeight sparse = checkpoint.read_sparse(name, allocator, pool);
      ASSERT_EQ(sparse.view.dtype(), record.dtype);
      const OwnedTensor expanded(allocator, record.dtype, {sparse.view.rows, sparse.view.cols});
      sparse_to_dense(sparse.view, expanded.view);
      ASSERT_EQ(testing::to_floats(expanded.view), testing::to_floats(dense.view)) << name;
    }
  }
}

TEST(Checkpoint, ReadsScaledWeightsWholeAndByRows) {
  HostAllocator allocator;
  ThreadPool pool(2);
  testing::Random random(33);
  for (const DType dtype : testing::kScaledDTypes) {
    for (const std::int64_t group : {200, 64}) {
      const OwnedScaledMatrix matrix = testing::random_scaled(allocator, dtype, 7, 200, group, 0.5, random);
      const OwnedSparseWeight sparse = sparse_from_scaled(matrix.view, allocator);
      TestCheckpoint written;
      written.add_scaled("dense.safetensors", "dense.weight", matrix.view);
      written.add_sparse("sparse.safetensors", "sparse.weight", sparse.view);
      const Files files = written.build();  // outlives the checkpoint
      const Checkpoint checkpoint = open_in_memory(files);
      for (const auto& [begin, end] : {std::pair(0, 7), {2, 5}, {6, 7}}) {
        const std::vector<float> expected = testing::to_floats(row_slice(matrix.view, begin, end));
        EXPECT_EQ(testing::to_floats(checkpoint.read_scaled_rows("dense.weight", begin, end, allocator, pool).view), expected);
        EXPECT_EQ(testing::to_floats(checkpoint.read_sparse_rows("sparse.weight", begin, end, allocator, pool).view), expected);
      }
      EXPECT_THROW(checkpoint.read_dense("dense.weight", allocator, pool), InvalidArgument);
      EXPECT_THROW(checkpoint.read_dense_rows("dense.weight", 0, 1, allocator, pool), InvalidArgument);
    }
  }
  const Files floating = tiny_checkpoint().build();
  EXPECT_THROW(open_in_memory(floating).read_scaled_rows("embed.weight", 0, 1, allocator, pool), InvalidArgument);
}

TEST(Checkpoint, ReadsTensorsThatSpanChunks) {
  HostAllocator allocator;
  ThreadPool pool(2);
  testing::Random random(32);
  TestCheckpoint written;
  const OwnedTensor first(allocator, DType::f32, {1000, 4001});  // 15.3 MiB: the next one begins inside the first chunk
  const OwnedTensor second(allocator, DType::f32, {3000, 4001});
  for (const OwnedTensor* tensor : {&first, &second}) {
    auto* values = static_cast<std::uint64_t*>(tensor->buffer.data());
    for (std::size_t i = 0; i < tensor->buffer.bytes() / 8; ++i) values[i] = random.next();
  }
  written.add_dense("big.safetensors", "first", first.view);
  written.add_dense("big.safetensors", "second", second.view);
  Files files = written.build();
  {
    const Checkpoint checkpoint = open_in_memory(files);
    for (const auto& [name, expected] : {std::pair("second", &second), std::pair("first", &first)}) {
      const OwnedTensor actual = checkpoint.read_dense(name, allocator, pool);
      ASSERT_EQ(std::memcmp(actual.buffer.data(), expected->buffer.data(), actual.buffer.bytes()), 0) << name;
    }
  }
  files["big.safetensors"].back() ^= 1;  // in the last chunk: opening does not touch it, reading the second tensor does
  const Checkpoint damaged = open_in_memory(files);
  EXPECT_NO_THROW(damaged.read_dense("first", allocator, pool));
  const std::string message = message_of<ChecksumError>([&] { damaged.read_dense("second", allocator, pool); });
  EXPECT_NE(message.find("files.big.safetensors.chunks[3]"), std::string::npos) << message;
  EXPECT_NO_THROW(open_in_memory(files, Verify::header).read_dense("second", allocator, pool));
}

TEST(Checkpoint, AcceptsTheEdgesOfTheFormat) {
  HostAllocator allocator;
  ThreadPool pool(1);
  TestCheckpoint written;
  for (const float fill : {0.0F, 1.0F}) {  // no value at all, no zero at all
    const OwnedTensor matrix(allocator, DType::f32, {3, 13});
    std::fill_n(matrix.view.data<float>(), 39, fill);
    written.add_sparse("edge.safetensors", fill == 0.0F ? "empty.weight" : "full.weight", sparse_from_dense(matrix.view, allocator).view);
  }
  const OwnedTensor one(allocator, DType::f32, {1, 1});
  *one.view.data<float>() = 2;
  written.add_sparse("edge.safetensors", "one.weight", sparse_from_dense(one.view, allocator).view);
  const OwnedTensor rank4(allocator, DType::f16, {1, 2, 1, 2});
  std::memset(rank4.buffer.data(), 1, 8);
  written.add_dense("edge.safetensors", "rank4", rank4.view);
  written.shards["edge.safetensors"].header["__metadata__"] = {{"format", "pt"}};
  written.side_files["empty.txt"] = "";
  written.manifest["some_later_member"] = {{"anything", 1}};
  const Files files = written.build();
  const Checkpoint checkpoint = open_in_memory(files);
  EXPECT_EQ(checkpoint.read_sparse("empty.weight", allocator, pool).view.nnz(), 0);
  EXPECT_EQ(checkpoint.read_sparse("full.weight", allocator, pool).view.nnz(), 39);
  EXPECT_EQ(checkpoint.read_sparse("one.weight", allocator, pool).view.values.data<float>()[0], 2.0F);
  EXPECT_EQ(checkpoint.read_dense("rank4", allocator, pool).view.to_string(), "f16[1, 2, 1, 2] on cpu");
  EXPECT_EQ(checkpoint.side_file("empty.txt"), "");
}

TEST(Checkpoint, TellsWhatTheManifestSays) {
  TestCheckpoint written = tiny_checkpoint();
  written.side_files["tokenizer.json"] = "{}";
  written.manifest["pruning"] = {{"method", "wanda"}, {"sparsity", 0.5}, {"calibration_sha256", nullptr}, {"pattern", "unstructured"}};
  const Files files = written.build();
  const Checkpoint checkpoint = open_in_memory(files);
  const Manifest& manifest = checkpoint.manifest();
  EXPECT_EQ(manifest.architecture, "LlamaForCausalLM");
  EXPECT_EQ(manifest.producer, "gossamer test");
  EXPECT_EQ(manifest.model_id, written.model_id());
  EXPECT_EQ(manifest.digest.size(), 64U);
  EXPECT_EQ(manifest.pruning_json, R"({"method":"wanda","sparsity":0.5,"calibration_sha256":null,"pattern":"unstructured"})");
  EXPECT_EQ(manifest.tensors.at("fc.weight").shape, (std::vector<std::int64_t>{3, 13}));
  EXPECT_EQ(manifest.tensors.at("fc.weight").encoding, TensorRecord::Encoding::bitmap);
  EXPECT_EQ(checkpoint.side_file("tokenizer.json"), "{}");
  EXPECT_EQ(checkpoint.side_file("chat_template.jinja"), "") << "a file that is not there";
  EXPECT_THROW(checkpoint.side_file("a.safetensors"), InvalidArgument);
}

TEST(Checkpoint, RefusesToReadATensorAsWhatItIsNot) {
  HostAllocator allocator;
  ThreadPool pool(1);
  const Files files = tiny_checkpoint().build();
  const Checkpoint checkpoint = open_in_memory(files);
  EXPECT_THROW(checkpoint.read_dense("fc.weight", allocator, pool), InvalidArgument);
  EXPECT_THROW(checkpoint.read_sparse("norm.weight", allocator, pool), InvalidArgument);
  EXPECT_THROW(checkpoint.read_dense("absent", allocator, pool), InvalidArgument);
}

TEST(Checkpoint, RowsAloneAreThoseOfTheWhole) {
  HostAllocator allocator;
  ThreadPool pool(1);
  testing::Random random(34);
  const OwnedTensor matrix = testing::random_matrix(allocator, DType::f32, 11, 13, 0.4, random);
  TestCheckpoint written;
  written.add_dense("a.safetensors", "dense.weight", matrix.view);
  written.add_sparse("a.safetensors", "sparse.weight", sparse_from_dense(matrix.view, allocator).view);
  const Files files = written.build();
  const Checkpoint checkpoint = open_in_memory(files);
  const OwnedTensor dense(allocator, DType::f32, {11, 13});
  for (std::int64_t begin = 0; begin <= 11; ++begin) {
    for (std::int64_t end = begin; end <= 11; ++end) {
      const std::vector<float> expected = testing::to_floats(matrix.view.rows(begin, end));
      EXPECT_EQ(testing::to_floats(checkpoint.read_dense_rows("dense.weight", begin, end, allocator, pool).view), expected);
      const OwnedSparseWeight part = checkpoint.read_sparse_rows("sparse.weight", begin, end, allocator, pool);
      sparse_to_dense(part.view, dense.view.rows(begin, end));
      EXPECT_EQ(testing::to_floats(dense.view.rows(begin, end)), expected);
    }
  }
  for (const auto& [begin, end] : {std::pair{-1, 2}, {3, 2}, {0, 12}}) {
    EXPECT_THROW(checkpoint.read_dense_rows("dense.weight", begin, end, allocator, pool), InvalidArgument);
    EXPECT_THROW(checkpoint.read_sparse_rows("sparse.weight", begin, end, allocator, pool), InvalidArgument);
  }
}

TEST(Checkpoint, ListsAllTensorsThatDoNotFitTheModel) {
  const Files files = tiny_checkpoint().build();
  const Checkpoint checkpoint = open_in_memory(files);
  EXPECT_NO_THROW(checkpoint.require_tensors({{"fc.weight", {3, 13}}, {"norm.weight", {5}}, {"embed.weight", {2, 3}}}));
  const std::string message = message_of<CheckpointError>([&] {
    checkpoint.require_tensors({{"fc.weight", {13, 3}}, {"absent.weight", {4}}, {"lm_head.weight", {1}}, {"embed.weight", {2, 3}}});
  });
  EXPECT_NE(message.find("2 missing: absent.weight, lm_head.weight"), std::string::npos) << message;
  EXPECT_NE(message.find("1 of another shape: fc.weight [3, 13] instead of [13, 3]"), std::string::npos) << message;
  EXPECT_NE(message.find("1 extra: norm.weight"), std::string::npos) << message;
}

TEST(Checkpoint, ASwappedPairOfEqualShardsIsFound) {
  HostAllocator allocator;
  testing::Random random(33);
  TestCheckpoint written;
  for (const char* layer : {"0", "1"}) {
    const OwnedTensor matrix = testing::random_matrix(allocator, DType::f32, 4, 4, 1.0, random);
    written.add_dense(std::string(layer) + ".safetensors", std::string("layer.") + layer, matrix.view);
  }
  Files files = written.build();
  std::swap(files["0.safetensors"], files["1.safetensors"]);
  EXPECT_THROW(open_in_memory(files), ChecksumError);
  EXPECT_THROW(open_in_memory(files, Verify::header), CheckpointError) << "the names give it away";
}

TEST(Checkpoint, AShardOfAnotherModelIsFoundEvenWithTheSameHeader) {
  HostAllocator allocator;
  ThreadPool pool(1);
  Files files = tiny_checkpoint().build();
  TestCheckpoint other = tiny_checkpoint();
  other.shards["b.safetensors"].data[5] ^= 1;
  files["b.safetensors"] = other.build()["b.safetensors"];
  const std::string message = message_of<ChecksumError>([&] { load(files, allocator, pool); });
  EXPECT_NE(message.find("b.safetensors"), std::string::npos) << message;
}

class CheckpointPathTest : public ::testing::Test {
 protected:
  CheckpointPathTest() {
    std::string pattern = (fs::temp_directory_path() / "gossamer-checkpoint-XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
  }
  ~CheckpointPathTest() override { fs::remove_all(root_); }
  std::string make(const std::string& name, const Files& files) const {
    fs::create_directories(root_ / name);
    for (const auto& [file, text] : files) std::ofstream(root_ / name / file, std::ios::binary) << text;
    return (root_ / name).string();
  }
  fs::path root_;
};

TEST_F(CheckpointPathTest, OpensADirectoryOnDisk) {
  HostAllocator allocator;
  ThreadPool pool(2);
  const Files files = tiny_checkpoint().build();
  const Checkpoint checkpoint = Checkpoint::open(make("model", files));
  EXPECT_EQ(testing::read_all(checkpoint, allocator, pool), load(files, allocator, pool));
}

TEST_F(CheckpointPathTest, APlainHuggingFaceDirectoryGetsTheConvertCommand) {
  const std::string path = make("hf", {{"config.json", "{}"}, {"model.safetensors", ""}});
  const std::string expected = "gossamer convert " + path + " " + path + "-gossamer";
  EXPECT_NE(message_of<CheckpointError>([&] { Checkpoint::open(path); }).find(expected), std::string::npos);
  EXPECT_NE(message_of<CheckpointError>([&] { Checkpoint::open(path + "/"); }).find(expected), std::string::npos);
  const std::string spaced = make("my model's", {{"config.json", "{}"}, {"model.safetensors", ""}});
  const std::string quoted = "gossamer convert '" + (root_ / "my model'\\''s").string() + "' '";
  EXPECT_NE(message_of<CheckpointError>([&] { Checkpoint::open(spaced); }).find(quoted), std::string::npos);
}

TEST_F(CheckpointPathTest, AGgufGetsTheConvertCommand) {
  const std::string directory = make("gguf", {{"model.gguf", "GGUF"}});
  const std::string path = directory + "/model.gguf";
  const std::string expected = "gossamer convert " + path + " " + path + "-gossamer";
  EXPECT_NE(message_of<CheckpointError>([&] { Checkpoint::open(path); }).find(expected), std::string::npos);
  EXPECT_NE(message_of<CheckpointError>([&] { Checkpoint::open(directory); }).find(expected), std::string::npos);
}

TEST_F(CheckpointPathTest, OtherPathsSayWhatTheyAre) {
  const auto message = [](const std::string& path) { return message_of<CheckpointError>([&] { Checkpoint::open(path); }); };
  EXPECT_NE(message((root_ / "nowhere").string()).find("does not exist"), std::string::npos);
  EXPECT_NE(message((root_ / "nowhere.gguf").string()).find("does not exist"), std::string::npos);
  EXPECT_NE(message("").find("does not exist"), std::string::npos);
  EXPECT_NE(message(make("empty", {})).find("it has no gossamer.json"), std::string::npos);
  EXPECT_NE(message(make("partial", {{"config.json", ""}, {".model-00001.safetensors.partial", ""}})).find("unfinished conversion"),
            std::string::npos);
  make("file", {{"weights.bin", ""}});
  EXPECT_NE(message((root_ / "file" / "weights.bin").string()).find("not a directory"), std::string::npos);
}

TEST_F(CheckpointPathTest, SymbolicLinksInTheDirectoryAreRefusedUnlessAllowed) {
  const std::string path = make("model", tiny_checkpoint().build());
  fs::rename(root_ / "model" / "b.safetensors", root_ / "elsewhere");
  fs::create_symlink(root_ / "elsewhere", root_ / "model" / "b.safetensors");
  EXPECT_THROW(Checkpoint::open(path), UnsafePathError);
  EXPECT_NO_THROW(Checkpoint::open(path, Verify::full, true));
  fs::remove(root_ / "model" / "config.json");
  fs::create_directory(root_ / "model" / "config.json");
  EXPECT_THROW(Checkpoint::open(path, Verify::full, true), UnsafePathError);
}

TEST_F(CheckpointPathTest, AFileThatShrinksAfterOpeningIsAnError) {
  HostAllocator allocator;
  ThreadPool pool(1);
  const Checkpoint checkpoint = Checkpoint::open(make("model", tiny_checkpoint().build()));
  fs::resize_file(root_ / "model" / "b.safetensors", 40);
  EXPECT_NE(message_of<CheckpointError>([&] { checkpoint.read_dense("embed.weight", allocator, pool); }).find("became shorter"),
            std::string::npos);
}

}  // namespace
}  // namespace gossamer
