// Whole models on the GPU against the CPU reference, and the engine over them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cuda_backend.h"
#include "engine/engine_core.h"
#include "runtime.h"
#include "support/tiny_model.h"
#include "support/tolerance.h"

namespace gossamer {
namespace {

using namespace gossamer::testing;
namespace fs = std::filesystem;

constexpr std::int64_t kVocab = 48;

std::vector<std::string> variants() {
  std::vector<std::string> names;
  for (const auto& [name, config] : tiny_configs()) names.push_back(name);
  return names;
}

class ModelDirectory {
 public:
  explicit ModelDirectory(const TinyModel& model) {
    std::string pattern = (fs::temp_directory_path() / "gossamer-cuda-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary directory");
    path_ = pattern;
    for (const auto& [name, contents] : write_checkpoint(model)) std::ofstream(path_ / name, std::ios::binary) << contents;
  }
  ~ModelDirectory() { fs::remove_all(path_); }
  ModelDirectory(const ModelDirectory&) = delete;
  ModelDirectory& operator=(const ModelDirectory&) = delete;
  std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

std::vector<double> log_softmax(const float* logits) {
  const double most = *std::max_element(logits, logits + kVocab);
  double total = 0;
  for (std::int64_t i = 0; i < kVocab; ++i) total += std::exp(logits[i] - most);
  std::vector<double> out;
  for (std::int64_t i = 0; i < kVocab; ++i) out.push_back(logits[i] - most - std::log(total));
  return out;
}

struct Agreement {
  double mean_kl = 0;
  int decided = 0;    // positions whose best token leads by more than the dtype's tolerance
  int different = 0;  // of those, where the other backend has another best token
};

Agreement compare(const std::vector<float>& reference, const std::vector<float>& actual, DType act) {
  Agreement result;
  const std::size_t positions = reference.size() / kVocab;
  for (std::size_t p = 0; p < positions; ++p) {
    const float* a = reference.data() + p * kVocab;
    const float* b = actual.data() + p * kVocab;
    const std::vector<double> log_a = log_softmax(a), log_b = log_softmax(b);
    for (std::size_t i = 0; i < kVocab; ++i) result.mean_kl += std::exp(log_a[i]) * (log_a[i] - log_b[i]) / static_cast<double>(positions);
    std::vector<float> sorted(a, a + kVocab);
    std::sort(sorted.rbegin(), sorted.rend());
    const double tolerance = 16 * unit_roundoff(act) * std::max(std::abs(sorted.front()), std::abs(sorted.back()));
    if (sorted[0] - sorted[1] <= tolerance) continue;
    ++result.decided;
    if (std::max_element(a, a + kVocab) - a != std::max_element(b, b + kVocab) - b) ++result.different;
  }
  return result;
}

class CudaFamily : public ::testing::TestWithParam<std::tuple<DType, std::string>> {
 protected:
  void SetUp() override {
    if (const std::string reason = why_no_gpu(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

// Teacher-forced logits: one prompt at once, then token by token beside another sequence.
TEST_P(CudaFamily, AgreesWithTheReference) {
  const auto& [act, variant] = GetParam();
  const std::unique_ptr<Ops> reference = make_reference_ops(), gpu = make_gpu_ops(act);
  const std::unique_ptr<Communicator> comm = make_single_communicator();
  for (const double density : {1.0, 0.5}) {
    const Files files = write_checkpoint(tiny_model(variant, density, act));
    const std::vector<std::vector<std::int32_t>> tokens{random_tokens(32, 7), random_tokens(32, 8)};
    std::vector<float> logits[2];
    for (const int side : {0, 1}) {
      Session session(open_checkpoint(files), side == 0 ? *reference : *gpu, *comm);
      logits[side] = session.run(tokens, {{0, 0, 20}});
      for (std::int64_t i = 20; i < 32; ++i) {
        const std::vector<float> step = session.run(tokens, {{0, i, i + 1}, {1, i - 20, i - 19}});
        logits[side].insert(logits[side].end(), step.begin(), step.end());
      }
    }
    const Agreement agreement = compare(logits[0], logits[1], act);
    EXPECT_LT(agreement.mean_kl, 1e-3) << "density " << density;
    EXPECT_EQ(agreement.different, 0) << "density " << density;
    EXPECT_GT(agreement.decided, 20) << "density " << density;
    RecordProperty("mean_kl_density_" + std::to_string(density), std::to_string(agreement.mean_kl));
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaFamily, ::testing::Combine(::testing::Values(DType::f16, DType::bf16), ::testing::ValuesIn(variants())),
                         [](const auto& info) { return std::string(name_of(std::get<0>(info.param))) + "_" + std::get<1>(info.param); });

// What a stepped engine draws for prompts of several lengths, step by step in one order: tokens with their log-probabilities.
struct Trace {
  std::vector<std::int32_t> tokens;
  std::vector<float> logprobs;
  std::int64_t allocations = 0;  // on the device, after the first 30 steps
};

Trace trace(Ops& ops, const Model& model, Communicator& comm, bool enforce_eager) {
  EngineCore core(ops, comm, model,
                  {.max_model_len = 64,
                   .max_num_seqs = 12,
                   .max_num_batched_tokens = 96,
                   .block_size = 4,
                   .num_blocks = 12 * 16,
                   .seed = 0,
                   .enforce_eager = enforce_eager});
  std::vector<std::vector<std::int32_t>> prompts;
  SamplingParams params;
  params.ignore_eos = true;
  params.logprobs = 3;
  for (SequenceId i = 0; i < 24; ++i) {
    prompts.push_back(random_tokens(1 + static_cast<std::int64_t>(i * 5 % 23), i));
    params.temperature = i % 2 == 0 ? 0.0 : 0.9;
    const SequenceSpec spec{
        .prompt = prompts.back(), .params = params, .max_tokens = 20 + static_cast<std::int64_t>(i % 12), .seed = i, .eos_ids = {}};
    core.add(std::make_unique<Sequence>(make_sequence(spec, i, 0)));
  }
  Trace result;
  std::int64_t before = 0;
  for (int step = 0; core.has_work(); ++step) {
    if (step == 30) before = ops.allocator().total_allocations();
    const StepEvents& events = core.step();
    for (const TokenEvent& token : events.tokens) result.tokens.push_back(token.token);
    for (const TokenLogprob& entry : events.logprobs) result.logprobs.push_back(entry.logprob);
  }
  result.allocations = ops.allocator().total_allocations() - before;
  return result;
}

TEST(CudaEngine, RecordedStepsGiveTheSameBitsAndAllocateNothing) {
  if (const std::string reason = why_no_gpu(); !reason.empty()) GTEST_SKIP() << reason;
  const std::unique_ptr<Communicator> comm = make_single_communicator();
  for (const DType act : {DType::f16, DType::bf16}) {
    const Files files = write_checkpoint(tiny_model("llama", 0.5, act));
    Trace traces[3];
    for (int i = 0; i < 3; ++i) {  // recorded, recorded once more, plain
      const std::unique_ptr<Ops> ops = make_gpu_ops(act);
      ThreadPool pool(1);
      const std::unique_ptr<Model> model = load_model(open_checkpoint(files), *ops, *comm, pool);
      traces[i] = trace(*ops, *model, *comm, i == 2);
      EXPECT_EQ(traces[i].allocations, 0);
    }
    EXPECT_GT(traces[0].tokens.size(), 500U);
    EXPECT_EQ(traces[0].tokens, traces[1].tokens);
    EXPECT_EQ(traces[0].tokens, traces[2].tokens);
    EXPECT_EQ(traces[0].logprobs, traces[1].logprobs);
    EXPECT_EQ(traces[0].logprobs, traces[2].logprobs);
  }
}

class CudaRuntime : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = why_no_gpu(); !reason.empty()) GTEST_SKIP() << reason;
  }
  static RuntimeOptions options(const std::string& device = "cuda") {
    RuntimeOptions options;
    options.device = device;
    options.block_size = 4;
    options.max_num_seqs = 12;
    return options;
  }
  static SamplingParams greedy(std::int64_t max_tokens) {
    SamplingParams params;
    params.temperature = 0;
    params.max_tokens = max_tokens;
    params.ignore_eos = true;
    return params;
  }
  static std::vector<std::vector<std::int32_t>> prompts() {
    std::vector<std::vector<std::int32_t>> all;
    for (std::uint64_t i = 0; i < 20; ++i) all.push_back(random_tokens(1 + static_cast<std::int64_t>(i * 5 % 23), i));
    return all;
  }
  ModelDirectory directory_{tiny_model("llama", 0.5, DType::f16)};
};

// A greedy continuation may part from the reference's only where two tokens are within the dtype's tolerance of each other; the
// log-probabilities that both report tell.
TEST_F(CudaRuntime, GeneratesTheReferencesTokens) {
  SamplingParams params = greedy(30);
  params.logprobs = 2;
  Runtime reference(directory_.path(), options("reference")), gpu(directory_.path(), options());
  const auto expected = reference.generate(prompts(), params), actual = gpu.generate(prompts(), params);
  std::size_t equal = 0, total = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const SampleOutput &a = expected[i].samples[0], &b = actual[i].samples[0];
    ASSERT_EQ(a.tokens.size(), b.tokens.size());
    total += a.tokens.size();
    for (std::size_t t = 0; t < a.tokens.size(); ++t) {
      if (a.tokens[t] != b.tokens[t]) {
        EXPECT_LT(a.logprobs[t][1].logprob - a.logprobs[t][2].logprob, 0.05) << "prompt " << i << ", token " << t;
        break;
      }
      EXPECT_NEAR(a.logprobs[t][0].logprob, b.logprobs[t][0].logprob, 0.05) << "prompt " << i << ", token " << t;
      ++equal;
    }
  }
  EXPECT_GT(equal, total * 9 / 10);
}

TEST_F(CudaRuntime, ScoresLikeTheReference) {
  Runtime reference(directory_.path(), options("reference")), gpu(directory_.path(), options());
  const auto expected = reference.score(prompts()), actual = gpu.score(prompts());
  for (std::size_t i = 0; i < expected.size(); ++i)
    for (std::size_t t = 0; t < expected[i].size(); ++t) EXPECT_NEAR(expected[i][t], actual[i][t], 0.05) << i << ", " << t;
}

TEST_F(CudaRuntime, PreemptedRequestsFinish) {
  RuntimeOptions tight = options();
  tight.max_model_len = 56;
  tight.kv_cache_memory = 20 * 4 * 3 * 2 * 2 * 8 * 2;  // 20 blocks of 4 tokens: 3 layers, 2 heads of 8, K and V in f16
  Runtime gpu(directory_.path(), tight);
  const auto outputs = gpu.generate(prompts(), greedy(30));
  for (const GenerateOutput& output : outputs) EXPECT_EQ(output.samples[0].tokens.size(), 30U);
  EXPECT_GT(gpu.stats().preemptions, 0);
  EXPECT_EQ(gpu.stats().free_blocks, gpu.info().num_blocks);
}

TEST_F(CudaRuntime, AutoIsTheGpu) {
  Runtime runtime(directory_.path(), options("auto"));
  EXPECT_NE(runtime.info().device.find("cuda:0"), std::string::npos) << runtime.info().device;
  EXPECT_EQ(runtime.info().kv_dtype, "f16");
}

}  // namespace
}  // namespace gossamer
