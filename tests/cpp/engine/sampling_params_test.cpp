#include "engine/sampling_params.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "core/error.h"

namespace gossamer {
namespace {

constexpr std::int64_t kVocab = 100;

std::string error_of(const std::function<void(SamplingParams&)>& change) {
  SamplingParams params;
  change(params);
  try {
    params.validate(kVocab);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return {};
}

TEST(SamplingParams, DefaultsAndLimitsAreValid) {
  EXPECT_EQ(error_of([](SamplingParams&) {}), "");
  EXPECT_EQ(error_of([](SamplingParams& p) {
              p.n = kMaxSamples;
              p.temperature = kMaxTemperature;
              p.top_k = -1;
              p.min_p = 1;
              p.max_tokens = std::numeric_limits<std::int64_t>::max();
              p.min_tokens = 1000000;
              p.logprobs = kMaxLogprobs;
              p.prompt_logprobs = 0;
              p.stop_token_ids = {0, 99};
              p.logit_bias = {{0, -100}, {99, 100}};
              p.presence_penalty = -2;
              p.frequency_penalty = 2;
            }),
            "");
}

TEST(SamplingParams, NamesTheFieldAndItsRange) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(error_of([](SamplingParams& p) { p.n = 0; }), "n must be between 1 and 128, not 0");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.n = 1000000000000000000; }), "n must be between 1 and 128, not 1000000000000000000");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.temperature = -0.5; }), "temperature must be between 0 and 10000, not -0.5");
  EXPECT_EQ(error_of([&](SamplingParams& p) { p.temperature = kNan; }), "temperature must be between 0 and 10000, not nan");
  EXPECT_EQ(error_of([&](SamplingParams& p) { p.temperature = kInf; }), "temperature must be between 0 and 10000, not inf");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.top_k = -2; }), "top_k must be -1 or 0 (all tokens) or at least 1, not -2");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.top_p = 0; }), "top_p must be above 0 and at most 1, not 0");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.top_p = 1.5; }), "top_p must be above 0 and at most 1, not 1.5");
  EXPECT_EQ(error_of([&](SamplingParams& p) { p.min_p = kNan; }), "min_p must be between 0 and 1, not nan");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.repetition_penalty = 0; }), "repetition_penalty must be above 0 and at most 100, not 0");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.presence_penalty = 3; }), "presence_penalty must be between -2 and 2, not 3");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.frequency_penalty = -3; }), "frequency_penalty must be between -2 and 2, not -3");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.max_tokens = -1; }), "max_tokens must be between 0 and 9223372036854775807, not -1");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.min_tokens = 17; }), "min_tokens must be between 0 and 16, not 17");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.logprobs = 21; }), "logprobs must be between 0 and 20, not 21");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.prompt_logprobs = -1; }), "prompt_logprobs must be between 0 and 20, not -1");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.stop_token_ids = {100}; }), "a stop token id must be between 0 and 99, not 100");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.logit_bias = {{-1, 0}}; }), "a token id in logit_bias must be between 0 and 99, not -1");
  EXPECT_EQ(error_of([&](SamplingParams& p) { p.logit_bias = {{1, kInf}}; }),
            "a value in logit_bias must be between -100 and 100, not inf");
  EXPECT_EQ(error_of([](SamplingParams& p) { p.logit_bias = {{7, 1}, {7, 2}}; }), "logit_bias must name each token once, not 7 twice");
  EXPECT_NE(error_of([](SamplingParams& p) { p.logit_bias.resize(100000); }), "");
  EXPECT_NE(error_of([](SamplingParams& p) { p.stop_token_ids.resize(100000); }), "");
}

}  // namespace
}  // namespace gossamer
