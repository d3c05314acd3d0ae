// Sampler: logits to tokens on the CPU, shared by both CPU backends. A row's result depends on that row alone: sums run in a fixed
// order and the draw walks the surviving tokens by id. Not thread-safe; one per thread. Scratch is kept, so a steady state allocates
// nothing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "ops/sampling.h"

namespace gossamer {

// One pass over a row of logits.
struct RowSummary {
  std::vector<float> block_max;  // the largest logit of each block of 256, the last of which may be short
  float max = 0.0F;
  std::int32_t argmax = 0;  // the smallest id among equals
  bool finite = false;      // no NaN, no +infinity, and not all -infinity

  // At least k >= 1 elements of the row are no smaller than the result. Found from block_max alone; -infinity if k exceeds the blocks.
  float lower_bound_of_largest(std::int64_t k, std::vector<float>& scratch) const;
};

class Sampler {
 public:
  // Rows [begin, end) of a checked batch (Ops::sample). Leaves the logits as they were.
  void sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result, std::int64_t begin, std::int64_t end);

 private:
  // A token that may still be drawn.
  struct Candidate {
    float logit;
    std::int32_t token;
    float weight;  // probability relative to the most likely token's
  };

  void sample_row(std::span<float> logits, const SampleRow& row, std::span<const TokenAdjustment> adjustments, std::int64_t index,
                  const SampleResult& result);
  std::int32_t choose(std::span<float> logits, const SampleRow& row, std::span<const TokenAdjustment> adjustments);
  std::int32_t draw(std::span<const float> logits, const SampleRow& row, double uniform);
  std::int32_t draw_from_all(double target_weight) const;
  std::span<Candidate> gather_candidates(std::span<const float> logits, const SampleRow& row, float inverse_temperature,
                                         double top_p_total);
  template <typename Amount>
  std::span<Candidate> keep_largest(std::span<Candidate> candidates, double wanted, const Amount& amount);
  static double weight_of(std::span<const Candidate> candidates);
  void report(std::span<const float> logits, std::int32_t token, std::int32_t num_logprobs, std::int64_t index, const SampleResult& result);

  RowSummary summary_;
  std::vector<float> weights_;      // of every token
  std::vector<double> block_sums_;  // of the weights of each block
  std::vector<Candidate> candidates_;
  std::vector<Candidate> within_;    // candidates of one bucket (keep_largest)
  std::vector<double> histogram_;    // amount in each bucket
  std::vector<float> saved_logits_;  // of the adjusted tokens, before
  std::vector<float> scratch_;
};

}  // namespace gossamer
