#include "cpu/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

namespace gossamer {
namespace {

constexpr std::int64_t kBlock = 256;  // logits per block
constexpr std::int64_t kLanes = 16;   // independent lanes of a block's loops, so that compilers vectorise them
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::int64_t size_of_row(std::span<const float> x) { return static_cast<std::int64_t>(x.size()); }

// e^x for x <= 0, within 2 ulp; 0 below -87, where the result would be subnormal. Plain arithmetic, the same bits everywhere.
inline float exp_nonpositive(float x) {
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  const float n = (std::max(x, -88.0F) * 1.44269504F + kRound) - kRound;
  const float r = (std::max(x, -88.0F) - n * 0.693359375F) + n * 2.12194440e-4F;  // ln 2 in two parts
  float p = 1.0F / 5040;
  p = p * r + 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const auto exponent = static_cast<std::uint32_t>(static_cast<std::int32_t>(n) + 127) << 23;
  return x < -87.0F ? 0.0F : p * std::bit_cast<float>(exponent);
}

// Unsigned integers in the order of the floats; -0 and +0 are equal.
inline std::uint32_t ordered_key(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

void summarize(std::span<const float> x, RowSummary& summary) {
  const std::int64_t size = size_of_row(x);
  const std::int64_t blocks = (size + kBlock - 1) / kBlock;
  summary.block_max.resize(static_cast<std::size_t>(blocks));
  summary.max = -kInfinity;
  std::int64_t best = 0;
  std::int32_t unordered = 0;  // some logit is NaN or +infinity
  for (std::int64_t b = 0; b < blocks; ++b) {
    const std::int64_t begin = b * kBlock;
    const std::int64_t end = std::min(begin + kBlock, size);
    float lane_max[kLanes];
    std::int32_t lane_unordered[kLanes] = {};
    std::fill_n(lane_max, kLanes, -kInfinity);
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        const float v = x[static_cast<std::size_t>(i + lane)];
        lane_max[lane] = v > lane_max[lane] ? v : lane_max[lane];
        lane_unordered[lane] |= v < kInfinity ? 0 : 1;
      }
    }
    for (; i < end; ++i) {
      lane_max[0] = std::max(lane_max[0], x[static_cast<std::size_t>(i)]);
      lane_unordered[0] |= x[static_cast<std::size_t>(i)] < kInfinity ? 0 : 1;
    }
    for (const std::int32_t flag : lane_unordered) unordered |= flag;
    const float block_max = *std::max_element(lane_max, lane_max + kLanes);
    summary.block_max[static_cast<std::size_t>(b)] = block_max;
    if (block_max > summary.max) {
      summary.max = block_max;
      best = begin;
    }
  }
  summary.finite = unordered == 0 && summary.max > -kInfinity;
  if (!summary.finite) return;
  while (x[static_cast<std::size_t>(best)] != summary.max) ++best;
  summary.argmax = best;
}

// weights = e^((x - max) * inverse_temperature); block_sums their sums by block. Returns the total.
double softmax_weights(std::span<const float> x, float max, float inverse_temperature, std::span<float> weights,
                       std::span<double> block_sums) {
  const std::int64_t size = size_of_row(x);
  double total = 0;
  for (std::size_t b = 0; b < block_sums.size(); ++b) {
    const std::int64_t begin = static_cast<std::int64_t>(b) * kBlock;
    const std::int64_t end = std::min(begin + kBlock, size);
    const float* in = x.data();
    float* out = weights.data();
    for (std::int64_t i = begin; i < end; ++i) out[i] = exp_nonpositive((in[i] - max) * inverse_temperature);
    float lanes[kLanes] = {};
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes)
      for (std::int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += out[i + lane];
    for (; i < end; ++i) lanes[0] += out[i];
    double sum = 0;
    for (const float lane : lanes) sum += double{lane};
    block_sums[b] = sum;
    total += sum;
  }
  return total;
}

void adjust(std::span<float> logits, const SampleRow& row, const TokenAdjustment& a) {
  float& x = logits[static_cast<std::size_t>(a.token)];
  if (a.seen) x = x > 0.0F ? x / row.repetition_penalty : x * row.repetition_penalty;
  if (a.output_count > 0) x -= row.presence_penalty + row.frequency_penalty * static_cast<float>(a.output_count);
  x += a.bias;
}

}  // namespace

float RowSummary::lower_bound_of_largest(std::int64_t k, std::vector<float>& scratch) const {
  if (k > static_cast<std::int64_t>(block_max.size())) return -kInfinity;
  scratch.assign(block_max.begin(), block_max.end());
  const auto kth = scratch.begin() + (k - 1);
  std::nth_element(scratch.begin(), kth, scratch.end(), std::greater<>());
  return *kth;  // k blocks hold an element at least this large
}

void Sampler::sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result, std::int64_t begin, std::int64_t end) {
  const auto vocab_size = static_cast<std::size_t>(logits.size(1));
  weights_.resize(vocab_size);
  block_sums_.resize((vocab_size + kBlock - 1) / kBlock);
  candidates_.reserve(vocab_size);
  saved_logits_.reserve(vocab_size);
  const auto before_row = [](const TokenAdjustment& a, std::int64_t row) { return a.row < row; };
  auto first = std::lower_bound(batch.adjustments.begin(), batch.adjustments.end(), begin, before_row);
  for (std::int64_t row = begin; row < end; ++row) {
    const auto last = std::lower_bound(first, batch.adjustments.end(), row + 1, before_row);
    sample_row({logits.row<float>(row), vocab_size}, batch.rows[static_cast<std::size_t>(row)], {first, last}, row, result);
    first = last;
  }
}

void Sampler::sample_row(std::span<float> logits, const SampleRow& row, std::span<const TokenAdjustment> adjustments, std::int64_t index,
                         const SampleResult& result) {
  const auto r = static_cast<std::size_t>(index);
  const auto top = static_cast<std::size_t>(result.max_logprobs);
  std::fill_n(result.top_tokens.begin() + static_cast<std::ptrdiff_t>(r * top), top, -1);
  std::fill_n(result.top_logprobs.begin() + static_cast<std::ptrdiff_t>(r * top), top, -kInfinity);
  result.logprobs[r] = std::numeric_limits<float>::quiet_NaN();
  result.ranks[r] = 0;

  const bool scored = row.target >= 0;
  const std::int32_t num_logprobs = scored ? std::max(row.num_logprobs, 0) : row.num_logprobs;
  result.tokens[r] = -1;
  // The summary of adjusted logits tells as well whether the raw ones were finite, but not what their maximum was.
  std::int32_t token = scored ? row.target : choose(logits, row, adjustments);
  if (token >= 0 && num_logprobs >= 0) {
    if (scored || !adjustments.empty()) summarize(logits, summary_);
    if (!summary_.finite) token = -1;
    if (token >= 0) report(logits, token, num_logprobs, index, result);
  }
  result.tokens[r] = token;
}

std::int32_t Sampler::choose(std::span<float> logits, const SampleRow& row, std::span<const TokenAdjustment> adjustments) {
  saved_logits_.clear();
  for (const TokenAdjustment& a : adjustments) {
    saved_logits_.push_back(logits[static_cast<std::size_t>(a.token)]);
    adjust(logits, row, a);
  }
  summarize(logits, summary_);
  std::int32_t token = -1;
  if (summary_.finite) {
    token = row.temperature == 0.0F ? static_cast<std::int32_t>(summary_.argmax)
                                    : draw(logits, row, philox_uniform(row.seed, row.sample_index, row.position));
  }
  for (std::size_t i = 0; i < adjustments.size(); ++i) logits[static_cast<std::size_t>(adjustments[i].token)] = saved_logits_[i];
  return token;
}

// Inverse transform sampling over the survivors of min_p, top_k and top_p, by token id.
std::int32_t Sampler::draw(std::span<const float> logits, const SampleRow& row, double uniform) {
  const float inverse_temperature = std::min(1.0F / row.temperature, std::numeric_limits<float>::max());  // never 0 * infinity
  const double total = softmax_weights(logits, summary_.max, inverse_temperature, weights_, block_sums_);

  if (row.min_p == 0.0F && row.top_p == 1.0F && (row.top_k == 0 || row.top_k >= size_of_row(logits))) {
    double left = uniform * total;
    std::size_t block = 0;
    while (block + 1 < block_sums_.size() && left >= block_sums_[block]) left -= block_sums_[block++];
    const auto begin = static_cast<std::size_t>(kBlock) * block;
    const std::size_t end = std::min(begin + static_cast<std::size_t>(kBlock), logits.size());
    auto token = static_cast<std::int32_t>(summary_.argmax);  // only if rounding finds no other
    for (std::size_t i = begin; i < end; ++i) {
      if (weights_[i] > 0.0F) token = static_cast<std::int32_t>(i);
      if ((left -= double{weights_[i]}) < 0) break;
    }
    return token;
  }

  double remaining = gather_candidates(logits, row, inverse_temperature, total);
  if (row.top_k > 0) remaining = keep_largest(row.top_k, [](const Candidate&) { return 1.0; });
  if (row.top_p < 1.0F) remaining = keep_largest(double{row.top_p} * remaining, [](const Candidate& c) { return double{c.weight}; });
  double left = uniform * remaining;
  for (const Candidate& c : candidates_)
    if ((left -= double{c.weight}) < 0) return c.token;
  return candidates_.back().token;
}

// The tokens that min_p leaves, by id, without those that top_k or top_p cannot reach. Returns the weight of all that min_p leaves.
double Sampler::gather_candidates(std::span<const float> logits, const SampleRow& row, float inverse_temperature, double total) {
  float least_logit = -kInfinity;
  float least_weight = std::max(row.min_p, std::numeric_limits<float>::min());  // never one that cannot be drawn
  if (row.top_k > 0) least_logit = summary_.lower_bound_of_largest(row.top_k, scratch_);
  // Together the tokens lighter than this weigh less than half of what top_p cuts off.
  const bool only_top_p = row.top_k == 0 && row.min_p == 0.0F;
  if (only_top_p)
    least_weight = std::max(least_weight, static_cast<float>(0.5 * (1.0 - row.top_p) * total / static_cast<double>(logits.size())));

  candidates_.clear();
  double gathered = 0;
  for (std::size_t b = 0; b < summary_.block_max.size(); ++b) {
    const float block_max = summary_.block_max[b];
    if (block_max < least_logit || exp_nonpositive((block_max - summary_.max) * inverse_temperature) < least_weight) continue;
    const std::size_t end = std::min((b + 1) * static_cast<std::size_t>(kBlock), logits.size());
    for (std::size_t i = b * static_cast<std::size_t>(kBlock); i < end; ++i) {
      if (logits[i] < least_logit || weights_[i] < least_weight) continue;
      candidates_.push_back({ordered_key(logits[i]), static_cast<std::int32_t>(i), weights_[i]});
      gathered += double{weights_[i]};
    }
  }
  return only_top_p ? total : gathered;
}

// Keeps the candidates of largest key, ties by smaller id, up to the one with which their amounts reach `wanted`; at least one.
// A radix select: finds the key of that last one from its high digit to its low, without sorting. Returns the weight of what is kept.
template <typename Amount>
double Sampler::keep_largest(double wanted, const Amount& amount) {
  struct Digit {
    int shift;
    int bits;
  };
  std::uint32_t last_key = 0;
  std::uint32_t known_bits = 0;
  double above = 0;  // amount of the keys above last_key
  for (const Digit digit : {Digit{21, 11}, Digit{10, 11}, Digit{0, 10}}) {
    const std::uint32_t digit_mask = (1U << digit.bits) - 1;
    histogram_.assign(std::size_t{digit_mask} + 1, 0.0);
    for (const Candidate& c : candidates_)
      if ((c.key & known_bits) == last_key) histogram_[(c.key >> digit.shift) & digit_mask] += amount(c);
    std::uint32_t value = digit_mask;
    while (value > 0 && (histogram_[value] == 0 || above + histogram_[value] < wanted)) above += histogram_[value--];
    last_key |= value << digit.shift;
    known_bits |= digit_mask << digit.shift;
  }
  double weight = 0;
  std::erase_if(candidates_, [&](const Candidate& c) {
    if (c.key < last_key) return true;
    if (c.key == last_key) {
      if (above > 0 && above >= wanted) return true;
      above += amount(c);
    }
    weight += double{c.weight};
    return false;
  });
  return weight;
}

void Sampler::report(std::span<const float> logits, std::int32_t token, std::int32_t num_logprobs, std::int64_t index,
                     const SampleResult& result) {
  const double log_total = std::log(softmax_weights(logits, summary_.max, 1.0F, weights_, block_sums_));
  const auto logprob = [&](float logit) { return static_cast<float>(double{logit} - summary_.max - log_total); };

  const auto r = static_cast<std::size_t>(index);
  const auto chosen = static_cast<std::size_t>(token);
  const float logit = logits[chosen];
  std::int32_t rank = 1;
  for (const float x : logits) rank += x > logit ? 1 : 0;
  for (const float x : logits.first(chosen)) rank += x == logit ? 1 : 0;
  result.logprobs[r] = logprob(logit);
  result.ranks[r] = rank;

  const std::int64_t wanted = std::min<std::int64_t>(num_logprobs, size_of_row(logits));
  if (wanted == 0) return;
  const float least_logit = std::max(summary_.lower_bound_of_largest(wanted, scratch_), std::numeric_limits<float>::lowest());
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (logits[i] >= least_logit) candidates_.push_back({ordered_key(logits[i]), static_cast<std::int32_t>(i), 0.0F});
  const auto found = std::min<std::ptrdiff_t>(wanted, static_cast<std::ptrdiff_t>(candidates_.size()));
  std::partial_sort(candidates_.begin(), candidates_.begin() + found, candidates_.end(),
                    [](const Candidate& a, const Candidate& b) { return a.key != b.key ? a.key > b.key : a.token < b.token; });
  const std::size_t first = r * static_cast<std::size_t>(result.max_logprobs);
  for (std::size_t j = 0; j < static_cast<std::size_t>(found); ++j) {
    result.top_tokens[first + j] = candidates_[j].token;
    result.top_logprobs[first + j] = logprob(logits[static_cast<std::size_t>(candidates_[j].token)]);
  }
}

}  // namespace gossamer
