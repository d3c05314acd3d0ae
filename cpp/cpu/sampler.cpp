#include "cpu/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

namespace gossamer {
namespace {

constexpr std::size_t kBlock = 256;  // logits per block
constexpr std::size_t kLanes = 16;   // independent lanes of a block's loops, so that compilers vectorise them
constexpr std::size_t kBuckets = 2048;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::size_t num_blocks(std::size_t size) { return (size + kBlock - 1) / kBlock; }
std::span<const float> block_of(std::span<const float> x, std::size_t b) {
  return x.subspan(b * kBlock, std::min(kBlock, x.size() - b * kBlock));
}

// e^x in two steps, each of which compilers vectorise: clamp, then e^x for -88 <= x <= 0, within 2 ulp; 0 below -87.7, where it would be
// subnormal. Plain arithmetic, the same bits everywhere.
inline float clamp_exponent(float x) { return x > -88.0F ? x : -88.0F; }

inline float exp_clamped(float x) {
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  const float n = (x * 1.44269504F + kRound) - kRound;
  const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;  // ln 2 in two parts
  float p = 1.0F / 5040;
  p = p * r + 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  return p * std::bit_cast<float>(static_cast<std::uint32_t>(static_cast<std::int32_t>(n) + 127) << 23);  // n = -127: times 0
}

struct BlockSummary {
  float max;
  bool ordered;  // no NaN, no +infinity
};

BlockSummary summarize_block(std::span<const float> x) {
  float max[kLanes];
  std::int32_t unordered[kLanes] = {};
  std::fill_n(max, kLanes, -kInfinity);
  std::size_t i = 0;
  for (; i + kLanes <= x.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const float v = x[i + lane];
      max[lane] = v > max[lane] ? v : max[lane];
      unordered[lane] |= v < kInfinity ? 0 : 1;
    }
  }
  for (; i < x.size(); ++i) {
    max[0] = x[i] > max[0] ? x[i] : max[0];
    unordered[0] |= x[i] < kInfinity ? 0 : 1;
  }
  return {*std::max_element(max, max + kLanes), std::all_of(unordered, unordered + kLanes, [](std::int32_t flag) { return flag == 0; })};
}

void summarize(std::span<const float> x, RowSummary& summary) {
  summary.block_max.resize(num_blocks(x.size()));
  summary.max = -kInfinity;
  bool ordered = true;
  std::size_t best = 0;
  for (std::size_t b = 0; b < summary.block_max.size(); ++b) {
    const BlockSummary block = summarize_block(block_of(x, b));
    ordered = ordered && block.ordered;
    summary.block_max[b] = block.max;
    if (block.max > summary.max) {
      summary.max = block.max;
      best = b * kBlock;
    }
  }
  summary.finite = ordered && summary.max > -kInfinity;
  if (!summary.finite) return;
  while (x[best] != summary.max) ++best;
  summary.argmax = static_cast<std::int32_t>(best);
}

// weights = e^((x - max) * inverse_temperature); block_sums their sums by block. Returns the total.
double softmax_weights(std::span<const float> x, float max, float inverse_temperature, std::span<float> weights,
                       std::span<double> block_sums) {
  double total = 0;
  for (std::size_t b = 0; b < block_sums.size(); ++b) {
    const std::span<const float> in = block_of(x, b);
    float* out = weights.data() + b * kBlock;
    for (std::size_t i = 0; i < in.size(); ++i) out[i] = clamp_exponent((in[i] - max) * inverse_temperature);
    for (std::size_t i = 0; i < in.size(); ++i) out[i] = exp_clamped(out[i]);
    float lanes[kLanes] = {};
    std::size_t i = 0;
    for (; i + kLanes <= in.size(); i += kLanes)
      for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += out[i + lane];
    for (; i < in.size(); ++i) lanes[0] += out[i];
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
  block_sums_.resize(num_blocks(vocab_size));
  candidates_.resize(vocab_size);
  within_.resize(vocab_size);
  scratch_.reserve(block_sums_.size());
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
    token = row.temperature == 0.0F ? summary_.argmax : draw(logits, row, philox_uniform(row.seed, row.sample_index, row.position));
  }
  for (std::size_t i = 0; i < adjustments.size(); ++i) logits[static_cast<std::size_t>(adjustments[i].token)] = saved_logits_[i];
  return token;
}

double Sampler::weight_of(std::span<const Candidate> candidates) {
  double weight = 0;
  for (const Candidate& c : candidates) weight += double{c.weight};
  return weight;
}

// The first token with which the weights, summed by id, exceed the target.
std::int32_t Sampler::draw_from_all(double target_weight) const {
  double left = target_weight;
  std::size_t block = 0;
  while (block + 1 < block_sums_.size() && left >= block_sums_[block]) left -= block_sums_[block++];
  const std::size_t begin = kBlock * block;
  const std::size_t end = std::min(begin + kBlock, weights_.size());
  std::int32_t token = summary_.argmax;  // only if rounding finds no other
  for (std::size_t i = begin; i < end; ++i) {
    if (weights_[i] > 0.0F) token = static_cast<std::int32_t>(i);
    if ((left -= double{weights_[i]}) < 0) break;
  }
  return token;
}

// Inverse transform sampling over the survivors of min_p, top_k and top_p, by token id.
std::int32_t Sampler::draw(std::span<const float> logits, const SampleRow& row, double uniform) {
  const float inverse_temperature = std::min(1.0F / row.temperature, std::numeric_limits<float>::max());  // never 0 * infinity
  const double total = softmax_weights(logits, summary_.max, inverse_temperature, weights_, block_sums_);

  const bool no_top_k = row.top_k == 0 || row.top_k >= static_cast<std::int64_t>(logits.size());
  if (no_top_k && row.top_p == 1.0F && row.min_p == 0.0F) return draw_from_all(uniform * total);

  const bool only_top_p = row.top_k == 0 && row.min_p == 0.0F;
  std::span<Candidate> candidates = gather_candidates(logits, row, inverse_temperature, only_top_p ? total : 0.0);
  if (row.top_k > 0) candidates = keep_largest(candidates, row.top_k, [](const Candidate&) { return 1.0; });
  if (row.top_p < 1.0F) {
    const double remaining = only_top_p ? total : weight_of(candidates);
    candidates = keep_largest(candidates, double{row.top_p} * remaining, [](const Candidate& c) { return double{c.weight}; });
  }
  double left = uniform * weight_of(candidates);
  for (const Candidate& c : candidates)
    if ((left -= double{c.weight}) < 0) return c.token;
  return candidates.back().token;
}

// The tokens that min_p leaves and top_k may reach, by id. top_p_total: the weight of all tokens if top_p is the only filter, else 0.
std::span<Sampler::Candidate> Sampler::gather_candidates(std::span<const float> logits, const SampleRow& row, float inverse_temperature,
                                                         double top_p_total) {
  const float least_logit = row.top_k > 0 ? summary_.lower_bound_of_largest(row.top_k, scratch_) : -kInfinity;
  // Together the tokens lighter than this weigh less than half of what top_p cuts off.
  const double out_of_reach = 0.5 * (1.0 - row.top_p) * top_p_total / static_cast<double>(logits.size());
  const float least_weight = std::max({row.min_p, static_cast<float>(out_of_reach), std::numeric_limits<float>::min()});
  std::size_t count = 0;
  for (std::size_t b = 0; b < summary_.block_max.size(); ++b) {
    const float block_max = summary_.block_max[b];
    if (block_max < least_logit || exp_clamped(clamp_exponent((block_max - summary_.max) * inverse_temperature)) < least_weight) continue;
    const std::size_t end = std::min((b + 1) * kBlock, logits.size());
    for (std::size_t i = b * kBlock; i < end; ++i) {
      candidates_[count] = {logits[i], static_cast<std::int32_t>(i), weights_[i]};  // overwritten by the next unless counted: no branch
      count += (logits[i] >= least_logit) & (weights_[i] >= least_weight) ? 1 : 0;
    }
  }
  return {candidates_.data(), count};
}

// The most likely candidates, ties by smaller id, up to the one with which their amounts reach `wanted`; at least one. Finds the logit of
// that last one without sorting: spreads the logits over buckets, goes on within the bucket that holds it.
template <typename Amount>
std::span<Sampler::Candidate> Sampler::keep_largest(std::span<Candidate> candidates, double wanted, const Amount& amount) {
  std::span<Candidate> within = candidates;
  double above = 0;  // amount of the candidates more likely than all within
  float last = 0;
  for (;;) {
    float top = within[0].logit;
    last = top;
    for (const Candidate& c : within) {
      top = c.logit > top ? c.logit : top;
      last = c.logit < last ? c.logit : last;
    }
    if (last == top) break;
    const double scale = kBuckets / (double{top} - last);
    const auto bucket_of = [&](const Candidate& c) {
      return std::min(static_cast<std::size_t>((double{top} - c.logit) * scale), kBuckets - 1);
    };
    histogram_.assign(kBuckets, 0.0);
    for (const Candidate& c : within) histogram_[bucket_of(c)] += amount(c);
    std::size_t bucket = 0;
    while (bucket + 1 < kBuckets && (histogram_[bucket] == 0 || above + histogram_[bucket] < wanted)) above += histogram_[bucket++];
    const auto end =
        std::copy_if(within.begin(), within.end(), within_.begin(), [&](const Candidate& c) { return bucket_of(c) == bucket; });
    within = {within_.begin(), end};
  }
  std::size_t count = 0;
  for (const Candidate& c : candidates) {
    const bool tied_in = c.logit == last && (above < wanted || above == 0);
    if (tied_in) above += amount(c);
    candidates[count] = c;
    count += (c.logit > last) | tied_in ? 1 : 0;
  }
  return candidates.first(count);
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

  const std::int64_t wanted = std::min<std::int64_t>(num_logprobs, static_cast<std::int64_t>(logits.size()));
  if (wanted == 0) return;
  const float least_logit = std::max(summary_.lower_bound_of_largest(wanted, scratch_), std::numeric_limits<float>::lowest());
  std::size_t count = 0;
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (logits[i] >= least_logit) candidates_[count++] = {logits[i], static_cast<std::int32_t>(i), 0.0F};
  const std::size_t found = std::min(static_cast<std::size_t>(wanted), count);
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(found),
                    candidates_.begin() + static_cast<std::ptrdiff_t>(count),
                    [](const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.token < b.token; });
  const std::size_t first = r * static_cast<std::size_t>(result.max_logprobs);
  for (std::size_t j = 0; j < found; ++j) {
    result.top_tokens[first + j] = candidates_[j].token;
    result.top_logprobs[first + j] = logprob(candidates_[j].logit);
  }
}

}  // namespace gossamer
