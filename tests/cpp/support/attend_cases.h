// Cases of Ops::attend: what it leaves in the cache and gives back, against the two verbs it stands for, which have cases of their own.
#pragma once

#include <string>

#include "support/attention_cases.h"

namespace gossamer::testing {

struct AttendCase {
  AttentionCase attention;
  std::int64_t rotary_half = 0;  // 0: no rotation
  bool has_padding = false;      // the last token goes nowhere
};

// The new tokens of an AttentionProblem: the last query_len of each sequence, whose keys and values the cache must not hold yet.
struct NewTokens {
  NewTokens(Ops& ops, const AttentionProblem& p, const AttendCase& c, Random& random)
      : k(ops, ops.activation_dtype(), {p.num_tokens, p.c.num_kv_heads, p.c.head_dim}, normal(random, p.num_tokens * p.row), p.c.pad),
        v(ops, ops.activation_dtype(), {p.num_tokens, p.c.num_kv_heads, p.c.head_dim}, normal(random, p.num_tokens * p.row), p.c.pad),
        positions(ops, list_positions(p)),
        slots(ops, list_slots(ops, p, c.has_padding)),
        cos(ops, DType::f32, {kPositions, columns(c)}, normal(random, kPositions * columns(c))),
        sin(ops, DType::f32, {kPositions, columns(c)}, normal(random, kPositions * columns(c))) {}

  static constexpr std::int64_t kPositions = 700;
  static std::int64_t columns(const AttendCase& c) { return std::max<std::int64_t>(1, c.rotary_half); }

  static std::vector<std::int32_t> list_positions(const AttentionProblem& p) {
    std::vector<std::int32_t> positions;
    for (const TestSequence& s : p.c.sequences) {
      for (std::int64_t i = s.context_len - s.query_len; i < s.context_len; ++i) positions.push_back(static_cast<std::int32_t>(i));
    }
    return positions;
  }
  static std::vector<std::int32_t> list_slots(Ops& ops, const AttentionProblem& p, bool has_padding) {
    std::vector<std::int32_t> slots;
    HostAllocator host;
    const OwnedTensor table(host, DType::i32, {p.batch.num_seqs, p.table_width});
    ops.download(table.view, p.batch.block_table);
    for (std::int64_t s = 0; s < p.batch.num_seqs; ++s) {
      const TestSequence& sequence = p.c.sequences[static_cast<std::size_t>(s)];
      for (std::int64_t i = sequence.context_len - sequence.query_len; i < sequence.context_len; ++i) {
        const std::int64_t block = table.view.row<const std::int32_t>(s)[i / p.c.block_size];
        slots.push_back(static_cast<std::int32_t>(block * p.c.block_size + i % p.c.block_size));
      }
    }
    if (has_padding) slots.back() = -1;
    return slots;
  }

  TestTensor k, v;
  IntTensor positions, slots;
  TestTensor cos, sin;
};

struct Attended {
  std::vector<float> out, keys, values;
};

inline Attended run_attend(Ops& ops, const AttendCase& c, unsigned seed, bool as_one) {
  const AttentionProblem p(ops, c.attention, seed);
  Random random(seed + 7);
  const NewTokens fresh(ops, p, c, random);
  const RopeTable table{fresh.cos, fresh.sin};
  const RopeTable* rope = c.rotary_half > 0 ? &table : nullptr;
  Batch batch = p.batch;
  batch.positions = fresh.positions;
  batch.slots = fresh.slots;
  const AttentionParams params{.scale = 0.3F, .sliding_window = c.attention.window};
  const TestTensor out = TestTensor::poisoned(ops, ops.activation_dtype(), {p.num_tokens, c.attention.num_heads, c.attention.head_dim});
  if (as_one) {
    ops.attend(out, *p.q, fresh.k, fresh.v, rope, p.kv(), batch, params);
  } else {
    ops.rope_and_write_kv(*p.q, fresh.k, fresh.v, rope, p.kv(), batch);
    ops.attention(out, *p.q, p.kv(), batch, params);
  }
  return {out.read(), p.key_pool->read(), p.value_pool->read()};
}

// Both sides round the same numbers to the same types; their sums may run in another order.
inline void expect_alike(const std::vector<float>& actual, const std::vector<float>& expected, double tolerance, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(expected[i]) && std::isnan(actual[i])) continue;  // an unused slot
    ASSERT_NEAR(actual[i], expected[i], tolerance) << what << " at " << i;
  }
}

inline void check_attend(Ops& ops, const AttendCase& c, unsigned seed) {
  const Attended expected = run_attend(ops, c, seed, false), actual = run_attend(ops, c, seed, true);
  const std::string what = "heads " + std::to_string(c.attention.num_heads) + "/" + std::to_string(c.attention.num_kv_heads) +
                           ", head_dim " + std::to_string(c.attention.head_dim) + ", rotary " + std::to_string(2 * c.rotary_half) +
                           ", window " + std::to_string(c.attention.window);
  const double unit = unit_roundoff(ops.activation_dtype());
  constexpr double kLargestKey = 32, kLargestValue = 4;
  expect_alike(actual.keys, expected.keys, 2 * unit * kLargestKey, what + ": keys");
  expect_alike(actual.values, expected.values, 0, what + ": values");
  std::vector<float> out = actual.out, expected_out = expected.out;
  if (c.has_padding) {  // nobody reads what becomes of it
    const auto row = static_cast<std::size_t>(c.attention.num_heads * c.attention.head_dim);
    out.resize(out.size() - row);
    expected_out.resize(out.size());
  }
  expect_alike(out, expected_out, 32 * unit * kLargestValue, what + ": out");
}

inline void attend_cases(Ops& ops) {
  unsigned seed = 3000;
  for (const std::int64_t group : {1, 4, 6, 16}) {
    for (const std::int64_t head_dim : {32, 64, 80, 128}) {
      for (const std::int64_t window : {0, 40}) {
        for (const bool rotates : {false, true}) {
          AttendCase c{.attention = {{{1, 1}, {65, 1}, {300, 1}, {16, 1}, {17, 1}}, 2 * group, 2}};
          c.attention.head_dim = head_dim;
          c.attention.block_size = 16;
          c.attention.window = window;
          c.attention.kv_dtype = ops.activation_dtype();
          c.attention.pad = seed % 2 == 0 ? 0 : 8;
          c.rotary_half = rotates ? head_dim / 2 : 0;
          check_attend(ops, c, seed++);
          if (::testing::Test::HasFailure()) return;
        }
      }
    }
  }
  AttendCase c{.attention = {{{30, 30}, {65, 1}, {90, 7}}, 4, 2, 64, 16}, .rotary_half = 16};  // a partial rotation, and prompts
  c.attention.kv_dtype = ops.activation_dtype();
  check_attend(ops, c, seed++);
  c = {.attention = {{{30, 1}, {65, 1}, {1, 1}}, 4, 2, 64, 16}, .rotary_half = 32, .has_padding = true};
  c.attention.kv_dtype = ops.activation_dtype();
  check_attend(ops, c, seed++);
}

// ids[i] = tokens[rows[i]] where rows[i] >= 0; the others stay.
inline void take_tokens_cases(Ops& ops) {
  Random random(77);
  for (const std::int64_t n : {1, 31, 128, 1000}) {
    std::vector<std::int32_t> ids, rows, tokens, expected;
    for (std::int64_t i = 0; i < 50; ++i) tokens.push_back(static_cast<std::int32_t>(random.below(100000)) - 1);
    for (std::int64_t i = 0; i < n; ++i) {
      ids.push_back(static_cast<std::int32_t>(random.below(1000)));
      rows.push_back(static_cast<std::int32_t>(random.below(100)) - 50);
      expected.push_back(rows.back() >= 0 ? tokens[static_cast<std::size_t>(rows.back())] : ids.back());
    }
    const IntTensor device_ids(ops, ids), device_rows(ops, rows), device_tokens(ops, tokens);
    ops.take_tokens(device_ids, device_rows, device_tokens);
    std::vector<std::int32_t> actual(ids.size());
    ops.download(Tensor(actual.data(), DType::i32, {n}), device_ids);
    EXPECT_EQ(actual, expected);
  }
}

// Two draws under way at once: each result is what sample() gives, and the tokens are on the device, too.
inline void begin_sample_cases(Ops& ops) {
  Random random(91);
  constexpr std::int64_t kRows = 5, kVocab = 300;
  std::vector<SampleRow> rows(kRows);
  for (std::size_t r = 0; r < kRows; ++r) rows[r] = {.temperature = r == 0 ? 0.0F : 0.9F, .top_p = 0.95F, .seed = r, .num_logprobs = 2};
  struct Result {
    std::vector<std::int32_t> tokens = std::vector<std::int32_t>(kRows), ranks = tokens, top_tokens = std::vector<std::int32_t>(2 * kRows);
    std::vector<float> logprobs = std::vector<float>(kRows), top_logprobs = std::vector<float>(2 * kRows);
    SampleResult view() { return {tokens, logprobs, ranks, top_tokens, top_logprobs, 2}; }
  };
  std::vector<TestTensor> logits;
  for (int draw = 0; draw < 3; ++draw) logits.emplace_back(ops, DType::f32, Shape{kRows, kVocab}, normal(random, kRows * kVocab, 3.0F));
  Result expected[3], actual[3];
  for (int draw = 0; draw < 3; ++draw) ops.sample(logits[static_cast<std::size_t>(draw)], {rows, {}}, expected[draw].view());
  const IntTensor tokens(ops, std::vector<std::int32_t>(kRows, -7));
  std::vector<std::int32_t> on_device(kRows);
  const auto begin = [&](int draw) {
    ops.begin_sample(logits[static_cast<std::size_t>(draw)], {rows, {}}, actual[draw].view(), tokens);
    ops.download(Tensor(on_device.data(), DType::i32, {kRows}), tokens);
    EXPECT_EQ(on_device, expected[draw].tokens);
  };
  begin(0);
  begin(1);
  ops.finish_sample();
  begin(2);
  ops.finish_sample();
  ops.finish_sample();
  for (int draw = 0; draw < 3; ++draw) {
    EXPECT_EQ(actual[draw].tokens, expected[draw].tokens);
    EXPECT_EQ(actual[draw].logprobs, expected[draw].logprobs);
    EXPECT_EQ(actual[draw].ranks, expected[draw].ranks);
    EXPECT_EQ(actual[draw].top_tokens, expected[draw].top_tokens);
    EXPECT_EQ(actual[draw].top_logprobs, expected[draw].top_logprobs);
  }
}

}  // namespace gossamer::testing
