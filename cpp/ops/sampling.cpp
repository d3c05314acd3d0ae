#include "ops/sampling.h"

#include <cmath>

#include "ops/door.h"

namespace gossamer {

PhiloxCounter philox4x32_10(PhiloxCounter counter, PhiloxKey key) {
  constexpr std::uint64_t kMultiplier0 = 0xD2511F53;
  constexpr std::uint64_t kMultiplier1 = 0xCD9E8D57;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9;
  constexpr std::uint32_t kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = kMultiplier0 * counter[0];
    const std::uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

double philox_uniform(std::uint64_t seed, std::uint32_t sample_index, std::uint32_t position) {
  const PhiloxKey key{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  const PhiloxCounter words = philox4x32_10({position, sample_index, 0, 0}, key);
  return (words[0] + 0.5) / 4294967296.0;
}

namespace detail {
namespace {

void check_row(const Door& door, std::int64_t index, const SampleRow& row, std::int64_t vocab_size) {
  const auto positive = [](float x) { return x > 0.0F && std::isfinite(x); };
  const auto fraction = [](float x) { return x >= 0.0F && x <= 1.0F; };
  door.expect(row.temperature == 0.0F || positive(row.temperature), "row ", index, " has temperature = ", double{row.temperature},
              "; it must be finite and at least 0");
  door.expect(row.top_k >= 0, "row ", index, " has top_k = ", std::int64_t{row.top_k}, "; it must be at least 0 (0 = all)");
  door.expect(fraction(row.top_p), "row ", index, " has top_p = ", double{row.top_p}, "; it must be in [0, 1]");
  door.expect(fraction(row.min_p), "row ", index, " has min_p = ", double{row.min_p}, "; it must be in [0, 1]");
  door.expect(positive(row.repetition_penalty), "row ", index, " has repetition_penalty = ", double{row.repetition_penalty},
              "; it must be finite and above 0");
  door.expect(std::isfinite(row.presence_penalty) && std::isfinite(row.frequency_penalty), "row ", index,
              " has a presence or frequency penalty that is not finite");
  door.expect(row.target < vocab_size, "row ", index, " has target = ", std::int64_t{row.target}, " but vocab_size = ", vocab_size);
}

void check_adjustments(const Door& door, std::span<const TokenAdjustment> adjustments, std::int64_t rows, std::int64_t vocab_size) {
  const TokenAdjustment* before = nullptr;
  for (const TokenAdjustment& a : adjustments) {
    door.expect(a.row >= 0 && a.row < rows, "an adjustment has row = ", std::int64_t{a.row}, " but there are ", rows, " rows");
    door.expect(a.token >= 0 && a.token < vocab_size, "an adjustment has token = ", std::int64_t{a.token},
                " but vocab_size = ", vocab_size);
    door.expect(a.bias < INFINITY, "an adjustment of token ", std::int64_t{a.token}, " has bias = ", double{a.bias},
                "; it must be finite or -infinity");
    door.expect(before == nullptr || before->row < a.row || (before->row == a.row && before->token < a.token),
                "adjustments must be sorted by row, then token, each pair once");
    before = &a;
  }
}

}  // namespace

void check_sample(Device device, const Tensor& logits, const SampleBatch& batch, const SampleResult& result) {
  const Door door("sample", device);
  door.tensor("logits", logits, 2, DType::f32);
  const std::int64_t rows = logits.size(0);
  const std::int64_t vocab_size = logits.size(1);
  const auto size_of_span = [](const auto& span) { return static_cast<std::int64_t>(span.size()); };
  door.expect(vocab_size > 0 || rows == 0, "logits is ", logits, "; vocab_size must be positive");
  door.expect(size_of_span(batch.rows) == rows, "logits is ", logits, " but the batch has ", size_of_span(batch.rows), " rows");
  door.expect(size_of_span(result.tokens) == rows && size_of_span(result.logprobs) == rows && size_of_span(result.ranks) == rows,
              "logits is ", logits, " but result has ", size_of_span(result.tokens), " tokens, ", size_of_span(result.logprobs),
              " logprobs and ", size_of_span(result.ranks), " ranks");
  door.expect(result.max_logprobs >= 0, "max_logprobs = ", std::int64_t{result.max_logprobs}, "; it must be at least 0");
  const std::int64_t top = rows * result.max_logprobs;
  door.expect(size_of_span(result.top_tokens) == top && size_of_span(result.top_logprobs) == top, "result has ",
              size_of_span(result.top_tokens), " top_tokens and ", size_of_span(result.top_logprobs),
              " top_logprobs but rows * max_logprobs = ", top);
  for (std::int64_t r = 0; r < rows; ++r) {
    const SampleRow& row = batch.rows[static_cast<std::size_t>(r)];
    check_row(door, r, row, vocab_size);
    door.expect(row.num_logprobs <= result.max_logprobs, "row ", r, " has num_logprobs = ", std::int64_t{row.num_logprobs},
                " but max_logprobs = ", std::int64_t{result.max_logprobs});
  }
  check_adjustments(door, batch.adjustments, rows, vocab_size);
}

}  // namespace detail
}  // namespace gossamer
