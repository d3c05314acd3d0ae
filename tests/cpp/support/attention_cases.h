// Cases of paged attention: shuffled block tables, several sequences, prefill chunks beside decodes.
// Whatever a verb has no business reading holds NaN.
#pragma once

#include <array>
#include <string>

#include "support/test_tensor.h"
#include "support/tolerance.h"

namespace gossamer::testing {

struct TestSequence {
  std::int64_t context_len;
  std::int64_t query_len;
};

struct AttentionCase {
  std::vector<TestSequence> sequences;
  std::int64_t num_heads = 1;
  std::int64_t num_kv_heads = 1;
  std::int64_t head_dim = 8;
  std::int64_t block_size = 4;
  std::int64_t window = 0;
  DType kv_dtype = DType::f32;
  std::int64_t pad = 0;
  float q_scale = 1.0F;
};

// A batch of sequences in a paged cache whose unused slots hold NaN, and the same keys and values unpaged.
struct AttentionProblem {
  AttentionProblem(Ops& ops, const AttentionCase& attention_case, unsigned seed)
      : c(attention_case), random(seed), row(c.num_kv_heads * c.head_dim), table_width(2) {
    std::int64_t num_blocks = 3;
    std::vector<std::int32_t> starts{0}, lengths;
    for (const TestSequence& s : c.sequences) {
      const std::int64_t blocks = (s.context_len + c.block_size - 1) / c.block_size;
      num_blocks += blocks;
      table_width = std::max(table_width, blocks + 1);
      starts.push_back(starts.back() + static_cast<std::int32_t>(s.query_len));
      lengths.push_back(static_cast<std::int32_t>(s.context_len));
    }
    num_tokens = starts.back();
    const auto num_seqs = static_cast<std::int64_t>(c.sequences.size());
    const std::vector<std::int32_t> shuffled = permutation(random, num_blocks);
    std::vector<std::int32_t> table(static_cast<std::size_t>(num_seqs * table_width), -1);
    std::vector<float> pool_keys(static_cast<std::size_t>(num_blocks * row * c.block_size), kNan), pool_values = pool_keys;
    std::size_t next_block = 0;
    for (std::int64_t s = 0; s < num_seqs; ++s) {
      const std::int64_t context = c.sequences[static_cast<std::size_t>(s)].context_len;
      keys.push_back(normal(random, context * row));
      values.push_back(normal(random, context * row));
      for (std::int64_t token = 0; token < context; ++token) {
        std::int32_t& block = table[static_cast<std::size_t>(s * table_width + token / c.block_size)];
        if (token % c.block_size == 0) block = shuffled[next_block++];
        for (std::int64_t e = 0; e < row; ++e) {
          const std::int64_t head = e / c.head_dim, d = e % c.head_dim;
          const std::int64_t at = ((block * c.num_kv_heads + head) * c.block_size + token % c.block_size) * c.head_dim + d;
          float& key = keys.back()[static_cast<std::size_t>(token * row + e)];
          float& value = values.back()[static_cast<std::size_t>(token * row + e)];
          pool_keys[static_cast<std::size_t>(at)] = key = round_to(c.kv_dtype, key);
          pool_values[static_cast<std::size_t>(at)] = value = round_to(c.kv_dtype, value);
        }
      }
    }
    const Shape pool{num_blocks, c.num_kv_heads, c.block_size, c.head_dim};
    key_pool = std::make_unique<TestTensor>(ops, c.kv_dtype, pool, pool_keys);
    value_pool = std::make_unique<TestTensor>(ops, c.kv_dtype, pool, pool_values);
    q = std::make_unique<TestTensor>(ops, ops.activation_dtype(), Shape{num_tokens, c.num_heads, c.head_dim},
                                     normal(random, num_tokens * c.num_heads * c.head_dim, c.q_scale), c.pad);
    query_start = std::make_unique<IntTensor>(ops, starts);
    context_len = std::make_unique<IntTensor>(ops, lengths);
    block_table = std::make_unique<IntTensor>(ops, table);
    batch.num_tokens = num_tokens;
    batch.num_seqs = num_seqs;
    batch.query_start = *query_start;
    batch.context_len = *context_len;
    batch.block_table = block_table->matrix(num_seqs);
    for (const TestSequence& s : c.sequences) {
      if (s.query_len == 1 && batch.max_query_len <= 1) ++batch.num_decodes;
      batch.max_query_len = std::max(batch.max_query_len, s.query_len);
      batch.max_context_len = std::max(batch.max_context_len, s.context_len);
    }
  }
  KvLayer kv() const { return {*key_pool, *value_pool}; }

  AttentionCase c;
  Random random;
  std::int64_t row;  // elements of one token's keys
  std::int64_t table_width;
  std::int64_t num_tokens = 0;
  std::vector<std::vector<float>> keys, values;  // [sequence][context_len, num_kv_heads, head_dim]
  std::unique_ptr<TestTensor> key_pool, value_pool, q;
  std::unique_ptr<IntTensor> query_start, context_len, block_table;
  Batch batch;
};

// softmax(scale q·K) V of one query head over visible tokens [begin, end), dense and in double.
inline std::vector<Bounded> exact_attention(const AttentionProblem& p, DType act, std::size_t seq, std::int64_t token, std::int64_t head,
                                            std::int64_t begin, std::int64_t end, double scale) {
  const AttentionCase& c = p.c;
  const std::int64_t first = head / (c.num_heads / c.num_kv_heads) * c.head_dim;
  std::vector<double> scores;
  double largest = -HUGE_VAL, score_magnitude = 0;
  for (std::int64_t t = begin; t < end; ++t) {
    double score = 0, magnitude = 0;
    for (std::int64_t d = 0; d < c.head_dim; ++d) {
      const double term = scale * p.q->at(token, head * c.head_dim + d) * p.keys[seq][static_cast<std::size_t>(t * p.row + first + d)];
      score += term;
      magnitude += std::abs(term);
    }
    scores.push_back(score);
    largest = std::max(largest, score);
    score_magnitude = std::max(score_magnitude, magnitude);
  }
  double total = 0;
  for (double& score : scores) total += score = std::exp(score - largest);
  std::vector<Bounded> out;
  for (std::int64_t d = 0; d < c.head_dim; ++d) {
    double sum = 0, magnitude = 0;
    for (std::int64_t t = begin; t < end; ++t) {
      const double term =
          scores[static_cast<std::size_t>(t - begin)] / total * p.values[seq][static_cast<std::size_t>(t * p.row + first + d)];
      sum += term;
      magnitude += std::abs(term);
    }
    // An error of a score changes its weight, and the total, by that factor. Matrix units multiply weights of the activations' type.
    const double from_scores = 2 * sum_error(c.head_dim, score_magnitude) * magnitude;
    const double from_weights = act == DType::f32 ? 0 : unit_roundoff(act) * magnitude;
    out.push_back({sum, storage_error(act, sum) + sum_error(end - begin, 2 * magnitude) + from_scores + from_weights});
  }
  return out;
}

inline void check_attention(Ops& ops, const AttentionCase& c, unsigned seed) {
  const AttentionProblem p(ops, c, seed);
  const DType act = ops.activation_dtype();
  const TestTensor out = TestTensor::poisoned(ops, act, {p.num_tokens, c.num_heads, c.head_dim}, c.pad);
  const AttentionParams params{.scale = 1.0F / std::sqrt(static_cast<float>(c.head_dim)), .sliding_window = c.window};
  ops.attention(out, *p.q, p.kv(), p.batch, params);

  std::vector<Bounded> expected;
  std::int64_t token = 0;
  for (std::size_t s = 0; s < c.sequences.size(); ++s) {
    for (std::int64_t i = 0; i < c.sequences[s].query_len; ++i, ++token) {
      const std::int64_t position = c.sequences[s].context_len - c.sequences[s].query_len + i;
      const std::int64_t begin = c.window > 0 && position + 1 > c.window ? position + 1 - c.window : 0;
      for (std::int64_t head = 0; head < c.num_heads; ++head) {
        const std::vector<Bounded> one = exact_attention(p, act, s, token, head, begin, position + 1, double{params.scale});
        expected.insert(expected.end(), one.begin(), one.end());
      }
    }
  }
  expect_close(out.read(), expected, "attention case " + std::to_string(seed) + " kv " + std::string(name_of(c.kv_dtype)));
}

inline const std::vector<AttentionCase>& attention_shapes() {
  static const std::vector<AttentionCase> shapes = {
      {{{1, 1}}},
      {{{1, 1}}, 3, 3, 5, 1},
      {{{5, 5}}, 2, 1, 8, 4},
      {{{9, 1}, {4, 1}, {17, 1}}, 4, 2, 16, 4},                     // decode
      {{{7, 7}, {33, 1}, {12, 5}, {1, 1}, {64, 3}}, 6, 2, 64, 16},  // prompts, chunks and decodes together
      {{{130, 1}, {257, 2}}, 9, 3, 64, 16},                         // longer than a vector kernel's KV block
      {{{600, 1}}, 2, 2, 32, 32},
      {{{21, 21}, {40, 6}}, 4, 4, 20, 8, 7},  // windows shorter than the context
      {{{50, 1}, {50, 50}}, 4, 1, 16, 16, 16},
      {{{300, 4}}, 2, 1, 80, 16, 33},
      {{{10, 10}}, 2, 2, 8, 4, 1},                             // a token sees only itself
      {{{70, 70}}, 2, 1, 128, 16, 100, DType::f32, 24, 1.0F},  // a window longer than the context; strided rows
      {{{90, 2}}, 2, 1, 16, 16, 0, DType::f32, 3, 300.0F}};    // scores that overflow a softmax without its maximum
  return shapes;
}

inline void attention_cases(Ops& ops) {
  unsigned seed = 0;
  for (AttentionCase c : attention_shapes()) {
    for (const DType kv_dtype : {DType::f32, DType::f16, DType::bf16}) {
      c.kv_dtype = kv_dtype;
      check_attention(ops, c, seed++);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

// Shapes nobody thought of.
inline void attention_random_cases(Ops& ops) {
  Random random(99);
  for (unsigned trial = 0; trial < 60; ++trial) {
    AttentionCase c;
    for (std::int64_t s = random.below(4); s >= 0; --s) {
      const std::int64_t context = 1 + random.below(90);
      c.sequences.push_back({context, 1 + random.below(random.below(2) == 0 ? 1 : context)});
    }
    c.num_kv_heads = 1 + random.below(3);
    c.num_heads = c.num_kv_heads * (1 + random.below(4));
    c.head_dim = 1 + random.below(70);
    c.block_size = 1 + random.below(20);
    c.window = random.below(3) == 0 ? 1 + random.below(100) : 0;
    c.kv_dtype = std::array{DType::f32, DType::f16, DType::bf16}[static_cast<std::size_t>(random.below(3))];
    c.pad = random.below(5);
    check_attention(ops, c, 1000 + trial);
    if (::testing::Test::HasFailure()) return;
  }
}

// The bits of a query's output depend neither on the queries beside it nor on how a prompt was cut into chunks.
inline void attention_queries_stand_alone(Ops& ops) {
  for (const std::int64_t window : {0, 21}) {
    const AttentionCase c{{{150, 150}, {61, 20}}, 6, 3, 32, 16, window};
    const AttentionProblem p(ops, c, 5);
    const AttentionParams params{.scale = 0.2F, .sliding_window = window};
    const Shape shape{p.num_tokens, c.num_heads, c.head_dim};
    const TestTensor together = TestTensor::poisoned(ops, ops.activation_dtype(), shape);
    ops.attention(together, *p.q, p.kv(), p.batch, params);
    for (const std::int64_t chunk : {1, 7, 64}) {
      const TestTensor apart = TestTensor::poisoned(ops, ops.activation_dtype(), shape);
      std::int64_t token = 0;
      for (std::int64_t s = 0; s < p.batch.num_seqs; ++s) {
        const TestSequence& sequence = c.sequences[static_cast<std::size_t>(s)];
        for (std::int64_t done = 0; done < sequence.query_len;) {
          const std::int64_t now = std::min(chunk, sequence.query_len - done);
          const std::int64_t context = sequence.context_len - sequence.query_len + done + now;
          const IntTensor start(ops, {0, static_cast<std::int32_t>(now)}), length(ops, {static_cast<std::int32_t>(context)});
          Batch batch;
          batch.num_tokens = batch.max_query_len = now;
          batch.num_seqs = 1;
          batch.max_context_len = context;
          batch.query_start = start;
          batch.context_len = length;
          batch.block_table = p.batch.block_table.rows(s, s + 1);
          ops.attention(apart.view().rows(token, token + now), p.q->view().rows(token, token + now), p.kv(), batch, params);
          done += now;
          token += now;
        }
      }
      EXPECT_EQ(apart.read(), together.read()) << "window " << window << " in chunks of " << chunk;
    }
  }
}

}  // namespace gossamer::testing
