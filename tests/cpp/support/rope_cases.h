// Cases of rotary embedding and KV writes: partial rotation, padding tokens, every KV dtype, and nothing written beside the slots.
#pragma once

#include <string>

#include "support/test_tensor.h"
#include "support/tolerance.h"

namespace gossamer::testing {

struct RopeCase {
  std::int64_t n = 1;
  std::int64_t num_heads = 1;
  std::int64_t num_kv_heads = 1;
  std::int64_t head_dim = 2;
  std::int64_t rotary_half = 1;  // 0: no rope
  std::int64_t block_size = 4;
  std::int64_t pad = 0;
};

// Where token i goes: distinct slots of a pool with room to spare, every fifth token nowhere.
inline std::vector<std::int32_t> random_slots(Random& random, std::int64_t n, std::int64_t num_slots) {
  std::vector<std::int32_t> slots = permutation(random, num_slots);
  slots.resize(static_cast<std::size_t>(n));
  for (std::size_t i = 4; i < slots.size(); i += 5) slots[i] = -1;
  return slots;
}

// Element d of a rotated head; `bound` its tolerance before it is stored.
inline Bounded rotated(const TestTensor& x, const RopeCase& c, const TestTensor& cos, const TestTensor& sin, std::int64_t position,
                       std::int64_t token, std::int64_t head, std::int64_t d) {
  const std::int64_t begin = head * c.head_dim;
  const double own = x.at(token, begin + d);
  if (d >= 2 * c.rotary_half) return {own, 0};
  const bool first = d < c.rotary_half;
  const double other = x.at(token, first ? begin + d + c.rotary_half : begin + d - c.rotary_half);
  const std::int64_t pair = first ? d : d - c.rotary_half;
  const double a = own * cos.at(position, pair), b = other * sin.at(position, pair);
  return {first ? a - b : a + b, sum_error(2, std::abs(a) + std::abs(b))};
}

inline void check_rope_and_write_kv(Ops& ops, const RopeCase& c, DType kv_dtype, unsigned seed) {
  Random random(seed);
  const DType act = ops.activation_dtype();
  constexpr std::int64_t kPositions = 50;
  const std::int64_t num_blocks = (2 * c.n) / c.block_size + 2;
  const TestTensor q(ops, act, {c.n, c.num_heads, c.head_dim}, normal(random, c.n * c.num_heads * c.head_dim), c.pad);
  const TestTensor k(ops, act, {c.n, c.num_kv_heads, c.head_dim}, normal(random, c.n * c.num_kv_heads * c.head_dim), c.pad);
  const TestTensor v(ops, act, {c.n, c.num_kv_heads, c.head_dim}, normal(random, c.n * c.num_kv_heads * c.head_dim), c.pad);
  const Shape pool{num_blocks, c.num_kv_heads, c.block_size, c.head_dim};
  const TestTensor keys = TestTensor::poisoned(ops, kv_dtype, pool), values = TestTensor::poisoned(ops, kv_dtype, pool);
  const std::int64_t table_columns = std::max<std::int64_t>(c.rotary_half, 1);
  const TestTensor cos(ops, DType::f32, {kPositions, table_columns}, normal(random, kPositions * table_columns));
  const TestTensor sin(ops, DType::f32, {kPositions, table_columns}, normal(random, kPositions * table_columns));
  const RopeTable rope{cos, sin};
  std::vector<std::int32_t> position_list;
  for (std::int64_t i = 0; i < c.n; ++i)
    position_list.push_back(static_cast<std::int32_t>(i == 0 ? kPositions - 1 : random.below(kPositions)));
  const IntTensor positions(ops, position_list);
  const IntTensor slots(ops, random_slots(random, c.n, num_blocks * c.block_size));
  Batch batch;
  batch.num_tokens = c.n;
  batch.positions = positions;
  batch.slots = slots;
  ops.rope_and_write_kv(q, k, v, c.rotary_half == 0 ? nullptr : &rope, {keys, values}, batch);

  const std::string name = "rope_and_write_kv case " + std::to_string(seed) + " kv " + std::string(name_of(kv_dtype));
  const auto rotated_heads = [&](const TestTensor& x, std::int64_t heads) {
    std::vector<Bounded> expected;
    for (std::int64_t token = 0; token < c.n; ++token)
      for (std::int64_t head = 0; head < heads; ++head)
        for (std::int64_t d = 0; d < c.head_dim; ++d) {
          Bounded e = rotated(x, c, cos, sin, positions.at(token), token, head, d);
          if (e.tolerance > 0) e.tolerance += storage_error(act, e.exact);
          expected.push_back(e);
        }
    return expected;
  };
  const std::vector<Bounded> expected_k = rotated_heads(k, c.num_kv_heads);
  expect_close(q.read(), rotated_heads(q, c.num_heads), name + " q");
  expect_close(k.read(), expected_k, name + " k");
  EXPECT_EQ(v.read(), v.values()) << name;

  const std::vector<float> pool_keys = keys.read(), pool_values = values.read();
  std::vector<float> written_k, written_v;
  std::vector<Bounded> wanted_k, wanted_v;
  std::size_t untouched = pool_keys.size();
  for (std::int64_t token = 0; token < c.n; ++token) {
    if (slots.at(token) < 0) continue;
    for (std::int64_t head = 0; head < c.num_kv_heads; ++head)
      for (std::int64_t d = 0; d < c.head_dim; ++d) {
        const std::int64_t block = slots.at(token) / c.block_size, offset = slots.at(token) % c.block_size;
        const auto at = static_cast<std::size_t>(((block * c.num_kv_heads + head) * c.block_size + offset) * c.head_dim + d);
        Bounded e = expected_k[static_cast<std::size_t>((token * c.num_kv_heads + head) * c.head_dim + d)];
        e.tolerance += storage_error(kv_dtype, e.exact);
        written_k.push_back(pool_keys[at]);
        wanted_k.push_back(e);
        const double exact = v.at(token, head * c.head_dim + d);
        written_v.push_back(pool_values[at]);
        wanted_v.push_back({exact, kv_dtype == act ? 0 : storage_error(kv_dtype, exact)});
        --untouched;
      }
  }
  expect_close(written_k, wanted_k, name + " pool of keys");
  expect_close(written_v, wanted_v, name + " pool of values");
  const auto is_nan = [](float x) { return std::isnan(x); };
  EXPECT_EQ(static_cast<std::size_t>(std::count_if(pool_keys.begin(), pool_keys.end(), is_nan)), untouched)
      << name << " wrote beyond its slots";
  EXPECT_EQ(static_cast<std::size_t>(std::count_if(pool_values.begin(), pool_values.end(), is_nan)), untouched)
      << name << " wrote beyond its slots";
}

inline void rope_and_write_kv_cases(Ops& ops) {
  const RopeCase cases[] = {{1, 1, 1, 2, 1, 1},    {1, 9, 3, 64, 32, 16, 64}, {6, 4, 2, 16, 8, 4, 5}, {11, 3, 1, 20, 5, 8},
                            {5, 2, 2, 80, 40, 16}, {7, 2, 1, 7, 2, 3, 1},     {6, 4, 4, 12, 0, 4},    {3, 1, 1, 128, 64, 32}};
  unsigned seed = 0;
  for (const RopeCase& c : cases)
    for (const DType kv_dtype : {DType::f32, DType::f16, DType::bf16}) check_rope_and_write_kv(ops, c, kv_dtype, seed++);
}

}  // namespace gossamer::testing
