// Cases of embedding, norms, gated activation, gather and add, against their formulas in double.
#pragma once

#include "support/linear_cases.h"
#include "support/test_tensor.h"
#include "support/tolerance.h"

namespace gossamer::testing {

inline void embedding_cases(Ops& ops) {
  const DType act = ops.activation_dtype();
  unsigned seed = 0;
  for (const DType table_dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::int64_t h : {1, 7, 64, 129}) {
      for (const bool accumulate : {false, true}) {
        Random random(seed++);
        constexpr std::int64_t kRowBegin = 10, kRows = 6;
        const std::vector<std::int32_t> id_list = {10, 15, 9, 16, 0, 12, 12, 100000};  // both ends, just outside, far outside, twice
        const auto n = static_cast<std::int64_t>(id_list.size());
        const TestTensor table(ops, table_dtype, {kRows, h}, normal(random, kRows * h), accumulate ? 5 : 0);
        const IntTensor ids(ops, id_list);
        const TestTensor out =
            accumulate ? TestTensor(ops, act, {n, h}, normal(random, n * h), 3) : TestTensor::poisoned(ops, act, {n, h}, 3);
        ops.embedding(out, table, ids, kRowBegin, accumulate);

        std::vector<Bounded> expected;
        for (std::int64_t i = 0; i < n; ++i) {
          const std::int64_t row = ids.at(i) - kRowBegin;
          for (std::int64_t j = 0; j < h; ++j) {
            const double own = row >= 0 && row < kRows ? table.at(row, j) : 0;
            const double exact = own + (accumulate ? out.at(i, j) : 0);
            expected.push_back({exact, accumulate || act != table_dtype ? storage_error(act, exact) : 0});
          }
        }
        expect_close(out.read(), expected, "embedding h=" + std::to_string(h) + " " + std::string(name_of(table_dtype)));
      }
    }
  }
}

struct NormCase {
  Shape shape;
  std::int64_t pad = 0;
  float eps = 1e-5F;
  float scale = 1.0F;
  float mean = 0.0F;
  bool in_place = false;
};

inline const std::vector<NormCase>& norm_shapes() {
  static const std::vector<NormCase> cases = {{{1, 1}},
                                              {{1, 576}},
                                              {{3, 7}, 2},
                                              {{5, 64}, 8, 1e-6F, 100.0F},
                                              {{4, 129}, 1, 1e-5F, 1e-4F},
                                              {{2, 3, 16}, 5},
                                              {{3, 1, 5}, 0},
                                              {{2, 40}, 3, 0.1F},
                                              {{6, 33}, 4, 1e-5F, 1.0F, 0.0F, true},
                                              {{2, 4, 8}, 0, 1e-6F, 1.0F, 0.0F, true},
                                              {{3, 200}, 0, 1e-5F, 1.0F, 1000.0F}};
  return cases;
}

inline void check_norm(Ops& ops, const NormCase& c, bool layer_norm, unsigned seed) {
  Random random(seed);
  const DType act = ops.activation_dtype();
  const std::int64_t size = c.shape.back();
  const TestTensor x(ops, act, c.shape, normal(random, product(c.shape), c.scale, layer_norm && act == DType::f32 ? c.mean : 0.0F), c.pad);
  const TestTensor weight(ops, act, {size}, normal(random, size));
  const TestTensor bias(ops, act, {size}, normal(random, size));
  const TestTensor fresh = TestTensor::poisoned(ops, act, c.shape, c.pad);
  const TestTensor& out = c.in_place ? x : fresh;
  if (layer_norm) {
    ops.layer_norm(out, x, weight, bias, c.eps);
  } else {
    ops.rms_norm(out, x, weight, c.eps);
  }

  std::vector<Bounded> expected;
  for (std::int64_t begin = 0; begin < product(c.shape); begin += size) {
    double mean = 0;
    for (std::int64_t j = 0; layer_norm && j < size; ++j) mean += x.at(begin + j) / static_cast<double>(size);
    double variance = 0;
    for (std::int64_t j = 0; j < size; ++j) variance += std::pow(x.at(begin + j) - mean, 2) / static_cast<double>(size);
    for (std::int64_t j = 0; j < size; ++j) {
      const double factor = weight.at(j) / std::sqrt(variance + c.eps);
      const double shift = layer_norm ? bias.at(j) : 0;
      const double exact = (x.at(begin + j) - mean) * factor + shift;
      const double magnitude = (std::abs(x.at(begin + j)) + std::abs(mean)) * std::abs(factor) + std::abs(shift);
      expected.push_back({exact, storage_error(act, exact) + sum_error(size, magnitude)});
    }
  }
  expect_close(out.read(), expected, std::string(layer_norm ? "layer_norm" : "rms_norm") + " case " + std::to_string(seed));
}

inline void rms_norm_cases(Ops& ops) {
  for (unsigned i = 0; i < norm_shapes().size(); ++i) check_norm(ops, norm_shapes()[i], false, i);
}
inline void layer_norm_cases(Ops& ops) {
  for (unsigned i = 0; i < norm_shapes().size(); ++i) check_norm(ops, norm_shapes()[i], true, i);
}

inline void gated_activation_cases(Ops& ops) {
  const DType act = ops.activation_dtype();
  for (const Activation activation : kActivations) {
    for (const std::int64_t size : {1, 5, 16, 67, 1536}) {
      Random random(static_cast<unsigned>(size));
      const std::int64_t n = size > 100 ? 2 : 9;
      std::vector<float> values = normal(random, n * 2 * size, 3.0F);
      const float extremes[] = {0.0F, -0.0F, 20.0F, -20.0F, 104.0F, -104.0F, 1e4F, -1e4F};
      for (std::size_t i = 0; i < std::size(extremes) && static_cast<std::int64_t>(i) < n; ++i)
        values[i * 2 * static_cast<std::size_t>(size)] = extremes[i];  // the first gate of row i
      const TestTensor gate_up(ops, act, {n, 2 * size}, values, 3);
      const TestTensor out = TestTensor::poisoned(ops, act, {n, size}, 2);
      ops.gated_activation(out, gate_up, activation);
      std::vector<Bounded> expected;
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t j = 0; j < size; ++j) {
          const double gate = gate_up.at(i, j), up = gate_up.at(i, size + j);
          const double exact = exact_activation(gate, activation) * up;
          expected.push_back({exact, storage_error(act, exact) + formula_error(std::abs(gate * up))});
        }
      }
      expect_close(out.read(), expected,
                   "gated_activation " + std::to_string(static_cast<int>(activation)) + " size " + std::to_string(size));
    }
  }
}

inline void gather_rows_cases(Ops& ops) {
  const DType act = ops.activation_dtype();
  for (const std::int64_t h : {1, 9, 64}) {
    Random random(static_cast<unsigned>(h));
    const TestTensor x(ops, act, {7, h}, normal(random, 7 * h), 4);
    const IntTensor rows(ops, {6, 0, 3, 3, 1});
    const TestTensor out = TestTensor::poisoned(ops, act, {5, h}, 1);
    ops.gather_rows(out, x, rows);
    std::vector<Bounded> expected;
    for (std::int64_t i = 0; i < 5; ++i)
      for (std::int64_t j = 0; j < h; ++j) expected.push_back({x.at(rows.at(i), j), 0});
    expect_close(out.read(), expected, "gather_rows h=" + std::to_string(h));
  }
}

inline void add_cases(Ops& ops) {
  const DType act = ops.activation_dtype();
  for (const std::int64_t h : {1, 9, 64, 131}) {
    Random random(static_cast<unsigned>(h));
    const TestTensor x(ops, act, {3, h}, normal(random, 3 * h), 4);
    const TestTensor y(ops, act, {3, h}, normal(random, 3 * h), 1);
    ops.add(x, y);
    std::vector<Bounded> expected;
    for (std::int64_t i = 0; i < 3 * h; ++i) expected.push_back({x.at(i) + y.at(i), storage_error(act, x.at(i) + y.at(i))});
    expect_close(x.read(), expected, "add h=" + std::to_string(h));
    EXPECT_EQ(y.read(), y.values());
  }
}

// Every verb takes n = 0 and then does nothing.
inline void empty_cases(Ops& ops) {
  const DType act = ops.activation_dtype();
  Random random(3);
  const TestWeight weight(ops, DType::f32, 4, 8, 0.5, random);
  const TestTensor x(ops, act, {0, 8}, {}), out(ops, act, {0, 4}, {}), norm_weight(ops, act, {8}, normal(random, 8));
  const IntTensor none(ops, {});
  ops.linear(out, x, *weight.packed);
  ops.embedding(x, TestTensor(ops, act, {2, 8}, normal(random, 16)), none);
  ops.rms_norm(x, x, norm_weight, 1e-5F);
  ops.layer_norm(x, x, norm_weight, norm_weight, 1e-5F);
  ops.gated_activation(out, x, Activation::silu);
  ops.gather_rows(x, TestTensor(ops, act, {2, 8}, normal(random, 16)), none);
  ops.add(x, x);
  EXPECT_TRUE(out.read().empty());
}

}  // namespace gossamer::testing
