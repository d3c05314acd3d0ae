// The facade over real (tiny) model directories on disk.
#include "runtime.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>

#include "core/log.h"
#include "support/tiny_model.h"

namespace gossamer {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

// A model directory that is deleted at the end.
class ModelDirectory {
 public:
  explicit ModelDirectory(const testing::TinyModel& model = testing::tiny_model("llama", 0.5, DType::bf16)) {
    std::string pattern = (fs::temp_directory_path() / "gossamer-runtime-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary directory");
    path_ = pattern;
    for (const auto& [name, contents] : testing::write_checkpoint(model)) std::ofstream(path_ / name, std::ios::binary) << contents;
  }
  ~ModelDirectory() { fs::remove_all(path_); }
  ModelDirectory(const ModelDirectory&) = delete;
  ModelDirectory& operator=(const ModelDirectory&) = delete;
  std::string path() const { return path_.string(); }
  fs::path file(const char* name) const { return path_ / name; }

 private:
  fs::path path_;
};

class RuntimeTest : public ::testing::Test {
 protected:
  static RuntimeOptions options() {
    RuntimeOptions options;
    options.num_threads = 2;
    options.block_size = 4;
    return options;
  }
  ModelDirectory directory_;
};

SamplingParams greedy(std::int64_t max_tokens) {
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = max_tokens;
  params.ignore_eos = true;
  return params;
}

template <typename Expected>
std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Expected& error) {
    return error.what();
  }
  return "no error";
}

TEST_F(RuntimeTest, GeneratesTheSameOnEveryBackend) {
  std::vector<GenerateOutput> expected;
  for (const char* device : {"reference", "cpu", "auto"}) {
    RuntimeOptions chosen = options();
    chosen.device = device;
    Runtime runtime(directory_.path(), chosen);
    const auto outputs = runtime.generate({{1, 2, 3}, {4}, {5, 6}}, greedy(30));
    ASSERT_EQ(outputs.size(), 3U);
    for (const GenerateOutput& output : outputs) {
      ASSERT_EQ(output.samples.size(), 1U);
      EXPECT_EQ(output.samples[0].tokens.size(), 30U);
      EXPECT_EQ(output.samples[0].finish_reason, FinishReason::length);
      EXPECT_TRUE(output.prompt_logprobs.empty());
    }
    if (expected.empty()) expected = outputs;
    for (std::size_t i = 0; i < outputs.size(); ++i) EXPECT_EQ(outputs[i].samples[0].tokens, expected[i].samples[0].tokens) << device;
  }
}

TEST_F(RuntimeTest, StreamsAsGenerateReturns) {
  Runtime runtime(directory_.path(), options());
  SamplingParams params = greedy(20);
  params.logprobs = 1;
  params.prompt_logprobs = 1;
  const GenerateOutput whole = runtime.generate({{7, 8, 9}}, params)[0];
  ASSERT_EQ(whole.prompt_logprobs.size(), 3U);
  double sum = 0;
  for (const auto& logprobs : whole.samples[0].logprobs) sum += logprobs[0].logprob;
  EXPECT_DOUBLE_EQ(whole.samples[0].cumulative_logprob, sum);
  const RequestId id = runtime.submit({7, 8, 9}, params);
  std::vector<std::int32_t> tokens;
  while (!runtime.finished(id)) {
    for (const SampleDelta& delta : runtime.wait(id, milliseconds(1000))) {
      tokens.insert(tokens.end(), delta.tokens.begin(), delta.tokens.end());
      EXPECT_EQ(delta.logprobs.size(), delta.tokens.size());
    }
  }
  EXPECT_EQ(tokens, whole.samples[0].tokens);
  EXPECT_EQ(runtime.prompt_logprobs(id).size(), 3U);
  runtime.release(id);
}

TEST_F(RuntimeTest, GeneratesMorePromptsThanTheQueueHolds) {
  RuntimeOptions small = options();
  small.max_num_seqs = 2;
  small.max_queue = 1;
  Runtime runtime(directory_.path(), small);
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::int32_t i = 0; i < 40; ++i) prompts.push_back({i, i + 1});
  const auto outputs = runtime.generate(prompts, greedy(5));
  ASSERT_EQ(outputs.size(), 40U);
  for (std::size_t i = 0; i < prompts.size(); i += 13) {
    EXPECT_EQ(outputs[i].samples[0].tokens, runtime.generate({prompts[i]}, greedy(5))[0].samples[0].tokens);
  }
}

TEST_F(RuntimeTest, ScoresWhatItGenerates) {
  Runtime runtime(directory_.path(), options());
  SamplingParams params = greedy(20);
  params.logprobs = 0;
  const SampleOutput output = runtime.generate({{1, 2}}, params)[0].samples[0];
  std::vector<std::int32_t> all = {1, 2};
  all.insert(all.end(), output.tokens.begin(), output.tokens.end());
  const auto scores = runtime.score({all, {5}});
  ASSERT_EQ(scores.size(), 2U);
  ASSERT_EQ(scores[0].size(), all.size());
  EXPECT_EQ(scores[0][0], 0.0F);
  for (std::size_t t = 0; t < output.tokens.size(); ++t) EXPECT_EQ(scores[0][2 + t], output.logprobs[t][0].logprob);
  EXPECT_EQ(scores[1], std::vector<float>{0.0F});
  EXPECT_TRUE(runtime.score({}).empty());
}

TEST_F(RuntimeTest, CalibratesEveryLinearOfTheLayers) {
  Runtime runtime(directory_.path(), options());
  std::int64_t done = 0;
  const Calibration calibration = runtime.calibrate({{1, 2, 3, 4, 5}, {6, 7}, {8}}, [&](std::int64_t count) { done = count; });
  EXPECT_EQ(done, 3);
  EXPECT_EQ(calibration.num_tokens, 8);
  EXPECT_EQ(calibration.sum_squares.size(), 3U * 7U);
  EXPECT_EQ(calibration.sum_squares.at("model.layers.0.self_attn.q_proj.weight"),
            calibration.sum_squares.at("model.layers.0.self_attn.v_proj.weight"));
  EXPECT_EQ(calibration.sum_squares.at("model.layers.2.mlp.down_proj.weight").size(), 40U);
  for (const auto& [name, sums] : calibration.sum_squares) {
    for (const double sum : sums) EXPECT_GT(sum, 0.0) << name;
  }
  // Chunks and company change nothing but the order of a sum in double.
  RuntimeOptions chunked = options();
  chunked.max_num_seqs = 1;
  chunked.max_num_batched_tokens = 2;
  Runtime other(directory_.path(), chunked);
  for (const auto& [name, sums] : other.calibrate({{1, 2, 3, 4, 5}, {6, 7}, {8}}).sum_squares) {
    for (std::size_t i = 0; i < sums.size(); ++i) EXPECT_NEAR(sums[i] / calibration.sum_squares.at(name)[i], 1.0, 1e-12) << name;
  }
}

TEST_F(RuntimeTest, ReportsInfoAndStats) {
  RuntimeOptions chosen = options();
  chosen.max_model_len = 50;
  chosen.max_num_seqs = 3;
  Runtime runtime(directory_.path() + "/", chosen);
  const RuntimeInfo info = runtime.info();
  EXPECT_EQ(info.model_path_name.find('/'), std::string::npos);
  EXPECT_TRUE(info.model_path_name.starts_with("gossamer-runtime-"));
  EXPECT_EQ(info.architecture, "LlamaForCausalLM");
  EXPECT_EQ(info.activation_dtype, "f32");
  EXPECT_EQ(info.vocab_size, 48);
  EXPECT_EQ(info.num_layers, 3);
  EXPECT_EQ(info.max_model_len, 50);
  EXPECT_EQ(info.num_blocks, 3 * 13);
  EXPECT_EQ(info.kv_bytes, info.num_blocks * 4 * (3 * 2 * 2 * 8) * 4) << "blocks x positions x (layers, K and V, heads, dim) x bytes";
  EXPECT_EQ(info.max_num_batched_tokens, 512);
  EXPECT_GT(info.sparse_zeros, info.sparse_elements / 3);
  EXPECT_GT(info.weight_bytes, 0);
  runtime.generate({{1, 2, 3}}, greedy(10));
  const RuntimeStats before = runtime.stats();
  EXPECT_EQ(before.steps, 10);
  EXPECT_EQ(before.prefill_tokens, 3);
  EXPECT_EQ(before.decode_tokens, 9);
  EXPECT_EQ(before.requests_finished, 1);
  EXPECT_EQ(before.free_blocks, info.num_blocks);
  EXPECT_GT(before.host_live_bytes, info.kv_bytes);
  const auto work = [&] { runtime.generate({{1, 2, 3}, {4, 5}}, greedy(40)); };
  runtime.generate({{1, 2, 3, 4, 5, 6, 7, 8}}, greedy(1));  // more tokens than any step of the work, whose prompts may share one or not
  work();
  const std::int64_t allocations = runtime.stats().host_allocations;
  for (int i = 0; i < 3; ++i) work();
  EXPECT_EQ(runtime.stats().host_allocations, allocations) << "the Runtime's allocator is quiet in steady state";
}

TEST_F(RuntimeTest, NamesABadOptionAndItsRange) {
  const auto error_with = [&](const std::function<void(RuntimeOptions&)>& change) {
    RuntimeOptions bad = options();
    change(bad);
    return error_of<InvalidArgument>([&] { Runtime runtime(directory_.path(), bad); });
  };
  EXPECT_EQ(error_with([](RuntimeOptions& o) { o.device = "tpu"; }), "device must be auto, cpu, cuda, cuda:N or reference, not 'tpu'");
  EXPECT_EQ(error_with([](RuntimeOptions& o) { o.device = "cuda:x"; }),
            "device must be auto, cpu, cuda, cuda:N or reference, not 'cuda:x'");
  EXPECT_EQ(error_with([](RuntimeOptions& o) { o.dtype = "int8"; }), "dtype must be auto, float32, bfloat16 or float16, not 'int8'");
  EXPECT_EQ(error_with([](RuntimeOptions& o) { o.dtype = "float16"; }),
            "dtype must be auto, float32 or bfloat16 on the CPU, not 'float16'");
  EXPECT_NE(error_with([](RuntimeOptions& o) { o.isa = "neon"; }).find("isa must be auto or one that this CPU has (portable"),
            std::string::npos);
  EXPECT_EQ(error_with([](RuntimeOptions& o) { o.num_threads = -1; }), "num_threads must be between 0 (all cores) and 1024, not -1");
  EXPECT_EQ(error_with([](RuntimeOptions& o) { o.max_num_seqs = 0; }), "max_num_seqs must be between 1 and 4096, not 0");
  EXPECT_EQ(error_with([](RuntimeOptions& o) { o.max_num_batched_tokens = 8; }),
            "max_num_batched_tokens (unless it is 0, the default) must be between 64 and 1048576, not 8");
  EXPECT_EQ(error_with([](RuntimeOptions& o) { o.block_size = 0; }), "block_size must be between 1 and 1024, not 0");
  EXPECT_EQ(error_with([](RuntimeOptions& o) { o.verify = "none"; }), "verify must be full or header, not 'none'");
  EXPECT_EQ(error_with([](RuntimeOptions& o) { o.tensor_parallel_size = 2; }),
            "tensor_parallel_size=2 needs as many processes: start this program with 'mpirun -n 2 ...'");
  EXPECT_EQ(error_with([](RuntimeOptions& o) { o.max_model_len = 65; }),
            "max_model_len must be between 1 and the model's 64, or 0 for that, not 65");
  EXPECT_NE(error_with([](RuntimeOptions& o) { o.gpu_memory_utilization = std::nan(""); }), "no error");
  EXPECT_NE(error_with([](RuntimeOptions& o) { o.kv_cache_memory = -1; }), "no error");
  EXPECT_NE(error_with([](RuntimeOptions& o) { o.max_queue = -1; }), "no error");
  RuntimeOptions cuda = options();
  cuda.device = "cuda:7";
  EXPECT_NE(error_of<DeviceError>([&] { Runtime runtime(directory_.path(), cuda); }), "no error");
}

TEST_F(RuntimeTest, SizesTheKvCache) {
  RuntimeOptions chosen = options();
  const std::int64_t block_bytes = 4 * (3 * 2 * 2 * 8) * 4;
  chosen.kv_cache_memory = 5 * block_bytes + 7;
  std::string warning;
  set_log_sink([&](LogLevel level, std::string_view message) {
    if (level == LogLevel::warning) warning = message;
  });
  {
    Runtime runtime(directory_.path(), chosen);
    EXPECT_EQ(runtime.info().num_blocks, 5);
    EXPECT_EQ(runtime.info().max_model_len, 20);
    EXPECT_EQ(runtime.generate({{1, 2, 3}}, greedy(17))[0].samples[0].tokens.size(), 17U);
    EXPECT_THROW(runtime.generate({{1, 2, 3}}, greedy(18)), ContextLengthError);
  }
  set_log_sink({});
  EXPECT_NE(warning.find("max_model_len"), std::string::npos) << warning;
  chosen.max_model_len = 21;
  const std::string error = error_of<OutOfMemoryError>([&] { Runtime runtime(directory_.path(), chosen); });
  EXPECT_NE(error.find("kv_cache_memory"), std::string::npos) << error;
  EXPECT_NE(error.find("max_model_len to at most 20"), std::string::npos) << error;
  chosen.max_model_len = 20;
  EXPECT_EQ(Runtime(directory_.path(), chosen).info().max_model_len, 20);
}

TEST_F(RuntimeTest, RefusesBadDirectories) {
  EXPECT_THROW(Runtime("/nonexistent/model", options()), CheckpointError);
  fs::remove(directory_.file("gossamer.json"));
  const std::string error = error_of<CheckpointError>([&] { Runtime runtime(directory_.path(), options()); });
  EXPECT_NE(error.find("gossamer convert"), std::string::npos) << error;
}

TEST_F(RuntimeTest, LoadingReportsProgressAndMayBeCancelled) {
  RuntimeOptions chosen = options();
  std::int64_t last = 0;
  std::int64_t whole = 0;
  chosen.load_progress = [&](std::int64_t done, std::int64_t total) {
    EXPECT_GE(done, last);
    last = done;
    whole = total;
  };
  Runtime runtime(directory_.path(), chosen);
  EXPECT_EQ(last, whole);
  EXPECT_GT(whole, 0);
  chosen.load_progress = [](std::int64_t, std::int64_t) { throw std::domain_error("cancelled"); };
  EXPECT_THROW(Runtime(directory_.path(), chosen), std::domain_error);
}

TEST_F(RuntimeTest, GenerateEndsWhenItsPollThrows) {
  Runtime runtime(directory_.path(), options());
  const std::vector<std::vector<std::int32_t>> prompts(2000, {1, 2, 3});
  EXPECT_THROW(runtime.generate(prompts, greedy(60), [] { throw std::domain_error("interrupted"); }), std::domain_error);
  EXPECT_EQ(runtime.generate({{1}}, greedy(3))[0].samples[0].tokens.size(), 3U);
  EXPECT_EQ(runtime.stats().waiting + runtime.stats().running, 0);
}

TEST_F(RuntimeTest, ABadPromptFailsBeforeAnyRuns) {
  Runtime runtime(directory_.path(), options());
  EXPECT_THROW(runtime.generate({}, greedy(1)), InvalidArgument);
  EXPECT_THROW(runtime.generate({{1, 2}, {}}, greedy(1)), InvalidArgument);
  EXPECT_THROW(runtime.generate({{1, 2}, {48}}, greedy(1)), InvalidArgument);
  EXPECT_THROW(runtime.score({std::vector<std::int32_t>(65, 1)}), ContextLengthError);
  EXPECT_EQ(runtime.score({std::vector<std::int32_t>(64, 1)})[0].size(), 64U);
  EXPECT_EQ(runtime.stats().requests_finished, 1);
}

TEST_F(RuntimeTest, ClosedMeansClosed) {
  Runtime runtime(directory_.path(), options());
  const RequestId id = runtime.submit({1}, greedy(60));
  runtime.close();
  runtime.close();
  const auto closed = [](const std::function<void()>& call) { EXPECT_EQ(error_of<InvalidArgument>(call), "runtime is closed"); };
  closed([&] { runtime.submit({1}, greedy(1)); });
  closed([&] { runtime.wait(id, milliseconds(0)); });
  closed([&] { runtime.generate({{1}}, greedy(1)); });
  closed([&] { runtime.score({{1}}); });
  closed([&] { runtime.calibrate({{1}}); });
  closed([&] { runtime.info(); });
  closed([&] { runtime.stats(); });
  runtime.abort(id);
  runtime.release(id);
}

TEST_F(RuntimeTest, ClosesUnderRunningGeneration) {
  Runtime runtime(directory_.path(), options());
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      try {
        while (true) runtime.generate({{1, 2}, {3}}, greedy(60));
      } catch (const InvalidArgument& error) {
        EXPECT_STREQ(error.what(), "runtime is closed");
      }
    });
  }
  std::this_thread::sleep_for(milliseconds(30));
  runtime.close();
  for (std::thread& thread : threads) thread.join();
}

// A forked child may neither use the Runtime nor hang when it leaves.
TEST_F(RuntimeTest, AForkedChildIsTurnedAwayAndExitsCleanly) {
  auto runtime = std::make_unique<Runtime>(directory_.path(), options());
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const bool is_told = error_of<Error>([&] { runtime->generate({{1}}, greedy(1)); }) == "engine created in another process; use spawn";
    runtime.reset();
    ::_exit(is_told ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(runtime->generate({{1}}, greedy(3))[0].samples[0].tokens.size(), 3U);
}

TEST(Version, IsASemanticVersion) {
  const std::string text = version();
  EXPECT_EQ(std::count(text.begin(), text.end(), '.'), 2);
  EXPECT_FALSE(supported_architectures().empty());
}

}  // namespace
}  // namespace gossamer
