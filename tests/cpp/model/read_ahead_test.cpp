// Threads that read ahead change when the files are read, never what a load gives or how it fails.
#include "model/read_ahead.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "support/local_communicator.h"
#include "support/scaled_cases.h"
#include "support/tiny_checkpoint.h"
#include "support/tiny_model.h"

namespace gossamer {
namespace {

using namespace gossamer::testing;
namespace fs = std::filesystem;

constexpr std::int64_t kReadsPerChunk = 64;  // of 256 KiB, where it is hashed too

// Every encoding, in tensors that begin and end within chunks, in two files; about six chunks.
Files many_chunks() {
  HostAllocator host;
  Random random(41);
  TestCheckpoint written;
  const OwnedTensor half = random_matrix(host, DType::bf16, 1500, 4000, 0.6, random);
  const OwnedScaledMatrix i8 = random_scaled(host, DType::i8, 2500, 4000, 4000, 0.6, random);
  const OwnedScaledMatrix e4m3 = random_scaled(host, DType::e4m3, 1500, 4000, 64, 0.6, random);
  const OwnedScaledMatrix i4 = random_scaled(host, DType::i4, 2000, 4001, 64, 0.6, random);
  written.add_dense("a.safetensors", "embed.weight", half.view);
  written.add_sparse("a.safetensors", "half.weight", sparse_from_dense(half.view, host).view);
  written.add_scaled("a.safetensors", "i8.weight", i8.view);
  written.add_sparse("a.safetensors", "i8_sparse.weight", sparse_from_scaled(i8.view, host).view);
  written.add_dense("a.safetensors", "norm.weight", half.view.select(0, 7));
  written.add_scaled("b.safetensors", "e4m3.weight", e4m3.view);
  written.add_sparse("b.safetensors", "e4m3_sparse.weight", sparse_from_scaled(e4m3.view, host).view);
  written.add_scaled("b.safetensors", "i4.weight", i4.view);
  written.add_sparse("b.safetensors", "i4_sparse.weight", sparse_from_scaled(i4.view, host).view);
  written.add_dense("b.safetensors", "table.weight", half.view);
  return written.build();
}

// The part-th of `parts` equal parts of every tensor's rows.
std::vector<TensorRows> all_tensors(const Checkpoint& checkpoint, std::int64_t part = 0, std::int64_t parts = 1) {
  std::vector<TensorRows> order;
  for (const auto& [name, record] : checkpoint.manifest().tensors) {
    const std::int64_t rows = record.shape[0];
    order.push_back(record.shape.size() == 1 ? TensorRows{name, 0, rows}
                                             : TensorRows{name, part * rows / parts, (part + 1) * rows / parts});
  }
  return order;
}

std::string read(const Checkpoint& checkpoint, const TensorRows& rows, ThreadPool& pool) {
  HostAllocator host;
  std::string bytes;
  const auto add = [&bytes](const Buffer& buffer) { bytes.append(static_cast<const char*>(buffer.data()), buffer.bytes()); };
  const TensorRecord& record = checkpoint.manifest().tensors.at(rows.name);
  if (record.encoding == TensorRecord::Encoding::bitmap) {
    const OwnedSparseWeight weight = checkpoint.read_sparse_rows(rows.name, rows.begin, rows.end, host, pool);
    for (const Buffer* part : {&weight.mask, &weight.values, &weight.row_offsets, &weight.scales}) add(*part);
  } else if (is_scaled(record.dtype)) {
    const OwnedScaledMatrix matrix = checkpoint.read_scaled_rows(rows.name, rows.begin, rows.end, host, pool);
    for (const Buffer* part : {&matrix.values, &matrix.scales}) add(*part);
  } else if (record.shape.size() == 1) {
    add(checkpoint.read_dense(rows.name, host, pool).buffer);
  } else {
    add(checkpoint.read_dense_rows(rows.name, rows.begin, rows.end, host, pool).buffer);
  }
  return bytes;
}

std::int64_t threads_of_this_process() { return std::distance(fs::directory_iterator("/proc/self/task"), fs::directory_iterator()); }

// What the error of reading the tensors in this order says; "" = none. No thread may outlive it.
std::string error_of(const Files& files, const std::vector<TensorRows>& order, int num_threads, ThreadPool& pool) {
  const std::int64_t threads = threads_of_this_process();
  const Checkpoint checkpoint = open_checkpoint(files);
  std::string message;
  {
    const auto ahead = num_threads > 0 ? checkpoint.read_ahead(order, num_threads) : nullptr;
    for (const TensorRows& rows : order) {
      try {
        read(checkpoint, rows, pool);
      } catch (const ChecksumError& error) {
        message = rows.name + ": " + error.what();
        break;
      }
    }
  }
  EXPECT_EQ(threads_of_this_process(), threads);
  return message;
}

// How many reads there were when `count` had been reached, or 20 seconds later.
std::int64_t await_reads(const FaultPoint& reads, std::int64_t count) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (reads.calls() < count && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  return reads.calls();
}

class ReadAheadTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { files_ = new Files(many_chunks()); }
  static void TearDownTestSuite() { delete files_; }
  static Files* files_;
  ThreadPool pool_{2};
};
Files* ReadAheadTest::files_ = nullptr;

TEST_F(ReadAheadTest, EveryTensorIsTheSameWholeAndInParts) {
  const Checkpoint plain = open_checkpoint(*files_);
  for (const auto& [part, parts] : {std::pair(0, 1), {0, 2}, {1, 2}, {3, 8}}) {
    for (const int num_threads : {1, 3}) {
      const Checkpoint checkpoint = open_checkpoint(*files_);
      const std::vector<TensorRows> order = all_tensors(checkpoint, part, parts);
      const auto ahead = checkpoint.read_ahead(order, num_threads);
      for (const TensorRows& rows : order) {
        ASSERT_EQ(read(checkpoint, rows, pool_), read(plain, rows, pool_)) << rows.name << " " << part << " of " << parts;
      }
    }
  }
}

TEST_F(ReadAheadTest, AForecastMayBeWrong) {
  const Checkpoint plain = open_checkpoint(*files_);
  const std::vector<TensorRows> all = all_tensors(plain);
  std::vector<std::vector<TensorRows>> forecasts{{}, {all[3]}, {all.rbegin(), all.rend()}, all_tensors(plain, 1, 2), all};
  forecasts.back().insert(forecasts.back().end(), all.begin(), all.end());
  for (std::size_t i = 0; i < forecasts.size(); ++i) {
    const Checkpoint checkpoint = open_checkpoint(*files_);
    const auto ahead = checkpoint.read_ahead(forecasts[i], 1);
    for (const TensorRows& rows : all) ASSERT_EQ(read(checkpoint, rows, pool_), read(plain, rows, pool_)) << rows.name << " " << i;
  }
}

TEST_F(ReadAheadTest, ReadsTwoChunksAThreadAndWaits) {
  FaultPoint reads;
  const Checkpoint checkpoint = Checkpoint::open(std::make_unique<MemoryDirectory>(*files_, &reads), "many");
  const std::vector<TensorRows> order = all_tensors(checkpoint);
  ASSERT_EQ(order[0].name, "e4m3.weight");            // at the beginning of its file
  const std::int64_t two_chunks = reads.calls() + 2;  // the first of each file, which were hashed for their headers
  const auto ahead = checkpoint.read_ahead(order, 1);
  EXPECT_EQ(await_reads(reads, two_chunks), two_chunks);
  read(checkpoint, order[0], pool_);
  EXPECT_EQ(await_reads(reads, two_chunks), two_chunks) << "it was in memory, and its chunk has more to give";
  read(checkpoint, {"norm.weight", 0, 4000}, pool_);  // near the end: what both chunks are for is behind
  EXPECT_GT(await_reads(reads, two_chunks + kReadsPerChunk + 1), two_chunks + kReadsPerChunk) << "more than the end of the file";
}

TEST_F(ReadAheadTest, ADamagedChunkIsTheSameErrorOfTheSameTensor) {
  Files files = *files_;
  const std::vector<TensorRows> order = all_tensors(open_checkpoint(files));
  for (const std::size_t place : {files["a.safetensors"].size() / 2, files["a.safetensors"].size() - 100}) {
    files["a.safetensors"][place] ^= 1;
    const std::string expected = error_of(files, order, 0, pool_);
    EXPECT_NE(expected.find("files.a.safetensors.chunks["), std::string::npos) << expected;
    for (const int num_threads : {1, 2, 5}) EXPECT_EQ(error_of(files, order, num_threads, pool_), expected);
    files["a.safetensors"][place] ^= 1;
  }
  EXPECT_EQ(error_of(files, order, 2, pool_), "");
}

TEST_F(ReadAheadTest, AFileThatShrinksIsTheSameError) {
  char directory[] = "/tmp/gossamer_read_ahead_XXXXXX";
  ASSERT_NE(::mkdtemp(directory), nullptr);
  std::vector<std::string> messages;
  for (const int num_threads : {0, 2}) {
    for (const auto& [name, contents] : *files_) std::ofstream(fs::path(directory) / name, std::ios::binary) << contents;
    const Checkpoint checkpoint = Checkpoint::open(directory);
    fs::resize_file(fs::path(directory) / "b.safetensors", 20'000'000);
    const std::vector<TensorRows> order = all_tensors(checkpoint);
    const auto ahead = num_threads > 0 ? checkpoint.read_ahead(order, num_threads) : nullptr;
    for (const TensorRows& rows : order) {
      try {
        read(checkpoint, rows, pool_);
      } catch (const CheckpointError& error) {
        messages.push_back(rows.name + ": " + error.what());
        break;
      }
    }
  }
  fs::remove_all(directory);
  ASSERT_EQ(messages.size(), 2U);
  EXPECT_NE(messages[0].find("became shorter"), std::string::npos) << messages[0];
  EXPECT_NE(messages[0].find("20000000"), std::string::npos) << messages[0];
  EXPECT_EQ(messages[1], messages[0]);
}

TEST_F(ReadAheadTest, EveryFailedReadIsReported) {
  const Files files = tiny_scaled_checkpoint().build();
  FaultPoint point;
  for (const auto mode : {FaultPoint::Mode::once, FaultPoint::Mode::from_then_on}) {
    const std::int64_t failed = fail_each_call<CheckpointError>(
        point, mode,
        [&] {
          const Checkpoint checkpoint = Checkpoint::open(std::make_unique<MemoryDirectory>(files, &point), "tiny");
          const std::vector<TensorRows> order = all_tensors(checkpoint);
          const auto ahead = checkpoint.read_ahead(order, 2);
          for (const TensorRows& rows : order) read(checkpoint, rows, pool_);
        },
        [](std::int64_t, const CheckpointError& error) {
          EXPECT_NE(std::string(error.what()).find("Input/output error"), std::string::npos) << error.what();
        });
    EXPECT_GT(failed, 5);
  }
}

// A Llama of three layers whose wide products have every encoding; about two chunks.
Files wide_model() {
  HostAllocator host;
  Random random(42);
  json config = rotary_config("LlamaForCausalLM", "llama");
  config.update({{"hidden_size", 256}, {"intermediate_size", 16384}});
  TestCheckpoint written;
  written.side_files["config.json"] = config.dump();
  int kind = 0;
  for (const auto& [name, shape] : rotary_shapes(config)) {
    const bool in_layer = shape.size() == 2 && name.find("layers.") != std::string::npos;
    if (!in_layer) {
      const OwnedTensor matrix = random_matrix(host, DType::f16, product(shape) / 256, 256, 1.0, random);
      written.add_dense("model.safetensors", name, shape.size() == 1 ? matrix.view.select(0, 0) : matrix.view);
    } else if (++kind % 5 == 0) {
      const OwnedTensor matrix = random_matrix(host, DType::f16, shape[0], shape[1], 0.4, random);
      written.add_sparse("model.safetensors", name, sparse_from_dense(matrix.view, host).view);
    } else {
      const DType dtype = kScaledDTypes[kind % 3];
      const OwnedScaledMatrix matrix = random_scaled(host, dtype, shape[0], shape[1], 64, 0.4, random);
      if (kind % 5 < 3) {
        written.add_sparse("model.safetensors", name, sparse_from_scaled(matrix.view, host).view);
      } else {
        written.add_scaled("model.safetensors", name, matrix.view);
      }
    }
  }
  return written.build();
}

TEST_F(ReadAheadTest, AModelComputesTheSameOnOneRankAndOnTwo) {
  const Files files = wide_model();
  const auto tokens = random_tokens(5, 43);
  for (const int ranks : {1, 2}) {
    std::vector<std::vector<float>> logits(2);
    for (const bool reads_ahead : {false, true}) {
      LocalGroup(ranks).run([&](Communicator& comm) {
        const auto ops = make_cpu_ops({.num_threads = 1, .isa = {}});
        Session session(open_checkpoint(files), *ops, comm, {.reads_ahead = reads_ahead});
        const std::vector<float> own = session.run({tokens}, {{0, 0, 5}});
        if (comm.rank() == 0) logits[reads_ahead ? 1 : 0] = own;
      });
    }
    ASSERT_GT(std::set(logits[0].begin(), logits[0].end()).size(), 100U);
    EXPECT_EQ(logits[1], logits[0]) << ranks << " ranks";
  }
}

TEST_F(ReadAheadTest, AModelForeseesWhatItReads) {
  const Files files = wide_model();
  FaultPoint reads;
  const Checkpoint checkpoint = Checkpoint::open(std::make_unique<MemoryDirectory>(files, &reads), "wide");
  const auto ops = make_cpu_ops();
  const auto comm = make_single_communicator();
  const std::int64_t opening = reads.calls();
  bool is_first = true;
  const auto progress = [&](std::int64_t, std::int64_t) {
    if (!std::exchange(is_first, false)) return;
    const std::int64_t expected = opening + kReadsPerChunk / 2;  // the second chunk is shorter, the first has been hashed
    EXPECT_GE(await_reads(reads, expected), expected) << "while the first tensor is packed";
  };
  load_model(checkpoint, *ops, *comm, pool_, {.progress = progress});
  EXPECT_FALSE(is_first);
}

TEST_F(ReadAheadTest, ACancelledLoadLeavesNoThread) {
  const Files files = write_checkpoint(tiny_model("llama", 0.5));
  const auto ops = make_reference_ops();
  const auto comm = make_single_communicator();
  const std::int64_t threads = threads_of_this_process();
  for (const std::int64_t cancel_at : {1, 10'000, 1'000'000}) {
    const auto progress = [cancel_at](std::int64_t done, std::int64_t) {
      if (done >= cancel_at) throw InvalidArgument("cancelled");
    };
    const auto load = [&] { load_model(open_checkpoint(files), *ops, *comm, pool_, {.progress = progress}); };
    if (cancel_at == 1'000'000) {
      EXPECT_NO_THROW(load());
    } else {
      EXPECT_THROW(load(), InvalidArgument);
    }
    EXPECT_EQ(threads_of_this_process(), threads);
  }
}

}  // namespace
}  // namespace gossamer
