// Cases of Ops::linear: every weight dtype and density, odd sizes, every epilogue, against the sum in double.
#pragma once

#include <iterator>
#include <string>
#include <vector>

#include "support/scaled_cases.h"
#include "support/test_tensor.h"
#include "support/tolerance.h"

namespace gossamer::testing {

// The activation functions as their definitions have them.
inline double exact_activation(double x, Activation activation) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return x < 0 ? 0 : x;
    case Activation::gelu: return x * 0.5 * std::erfc(-x * M_SQRT1_2);
    case Activation::gelu_tanh: return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::silu: return x / (1 + std::exp(-x));
  }
  return x;
}

inline constexpr Activation kActivations[] = {Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh,
                                              Activation::silu};

// The weight types that a backend keeps as they are: all where activations are f32; one with half activations converts to their type.
inline std::vector<DType> weight_dtypes(const Ops& ops) {
  const DType act = ops.activation_dtype();
  return act == DType::f32 ? std::vector<DType>{DType::f32, DType::f16, DType::bf16} : std::vector<DType>{act};
}

// A weight [m, k] on the host and packed. sparsity < 0: dense format. group: of a scaled dtype.
struct TestWeight {
  TestWeight(Ops& ops, DType dtype, std::int64_t m, std::int64_t k, double sparsity, Random& random, std::int64_t group = 0)
      : values(normal(random, m * k)) {
    if (is_scaled(dtype)) {
      HostAllocator host;
      const OwnedScaledMatrix dense = random_scaled(host, dtype, m, k, group, sparsity < 0 ? 1.0 : 1.0 - sparsity, random);
      values = to_floats(dense.view);
      packed = sparsity < 0 ? ops.pack(dense.view) : ops.pack(sparse_from_scaled(dense.view, host).view);
      return;
    }
    for (float& value : values) value = random.uniform() < sparsity ? 0.0F : round_to(dtype, value);
    HostAllocator host;
    OwnedTensor dense(host, dtype, {m, k});
    visit_floating(dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      std::transform(values.begin(), values.end(), dense.view.data<T>(), [](float value) { return from_float<T>(value); });
    });
    packed = sparsity < 0 ? ops.pack(dense.view) : ops.pack(sparse_from_dense(dense.view, host).view);
  }
  std::vector<float> values;
  std::unique_ptr<PackedWeight> packed;  // must not refer to the host's copy, which is gone
};

struct LinearCase {
  std::int64_t n = 1;
  std::int64_t k = 1;
  std::int64_t m = 1;
  DType weight_dtype = DType::f32;
  double sparsity = -1;  // < 0: dense format
  bool bias = false;
  bool residual = false;
  bool in_place = false;  // the residual is `out`
  bool f32_out = false;
  Activation activation = Activation::none;
  std::int64_t pad = 0;
  DType inputs = DType::f32;  // what x is rounded to
  std::int64_t group = 0;     // columns that share a scale, of a scaled dtype

  std::string name() const {
    return "linear n=" + std::to_string(n) + " k=" + std::to_string(k) + " m=" + std::to_string(m) + " " +
           std::string(name_of(weight_dtype)) + (sparsity < 0 ? " dense" : " sparsity " + std::to_string(sparsity)) + " group " +
           std::to_string(group) + (bias ? " bias" : "") + (residual ? " residual" : "") + (in_place ? " in place" : "") + " activation " +
           std::to_string(static_cast<int>(activation)) + " pad " + std::to_string(pad) + " inputs " + std::string(name_of(inputs));
  }
};

inline void check_linear(Ops& ops, const LinearCase& c, unsigned seed) {
  Random random(seed);
  const DType act = ops.activation_dtype();
  const DType out_dtype = c.f32_out ? DType::f32 : act;
  const TestWeight weight(ops, c.weight_dtype, c.m, c.k, c.sparsity, random, c.group);
  std::vector<float> inputs = normal(random, c.n * c.k);
  for (float& value : inputs) value = round_to(c.inputs, value);
  const TestTensor x(ops, act, {c.n, c.k}, inputs, c.pad);
  const TestTensor bias(ops, act, {c.m}, normal(random, c.m));
  const TestTensor residual(ops, out_dtype, {c.n, c.m}, normal(random, c.n * c.m), c.pad);
  const TestTensor fresh = TestTensor::poisoned(ops, out_dtype, {c.n, c.m}, c.pad);
  const TestTensor& out = c.in_place ? residual : fresh;

  EXPECT_EQ(weight.packed->rows(), c.m);
  EXPECT_EQ(weight.packed->cols(), c.k);
  if (ops.device().kind == Device::Kind::cpu) {  // a GPU's planner may keep a weight dense, and its backend widens scaled values
    EXPECT_EQ(weight.packed->dtype(), c.weight_dtype);
    EXPECT_EQ(weight.packed->is_sparse(), c.sparsity >= 0);
  }
  const DType kept_as = weight.packed->dtype();  // values that are not kept as they came are rounded
  const auto kept = [&](float value) { return kept_as == c.weight_dtype ? value : round_to(kept_as, value); };
  Epilogue epilogue;
  epilogue.activation = c.activation;
  if (c.bias) epilogue.bias = bias;
  if (c.residual) epilogue.residual = residual;
  ops.linear(out, x, *weight.packed, epilogue);

  std::vector<Bounded> expected;
  for (std::int64_t i = 0; i < c.n; ++i) {
    for (std::int64_t j = 0; j < c.m; ++j) {
      double sum = c.bias ? bias.at(j) : 0;
      double magnitude = std::abs(sum);
      for (std::int64_t p = 0; p < c.k; ++p) {
        const double term = x.at(i, p) * kept(weight.values[static_cast<std::size_t>(j * c.k + p)]);
        sum += term;
        magnitude += std::abs(term);
      }
      const double activated = exact_activation(sum, c.activation);
      const double exact = activated + (c.residual ? residual.at(i, j) : 0);
      constexpr double kSteepest = 1.13;  // the largest slope of an activation (gelu)
      expected.push_back({exact, storage_error(out_dtype, exact) + kSteepest * sum_error(c.k, magnitude) +
                                     formula_error(std::abs(sum) + std::abs(exact))});
    }
  }
  expect_close(out.read(), expected, c.name());
}

// inputs: bf16 for Ops whose products round their inputs, of which the exact result knows nothing.
inline void linear_cases_of(Ops& ops, DType inputs) {
  struct Size {
    std::int64_t n, k, m;
  };
  const Size sizes[] = {{1, 1, 1},   {1, 64, 16}, {1, 576, 96}, {2, 7, 5},   {3, 65, 31},   {4, 128, 48}, {5, 1023, 3},
                        {7, 63, 17}, {8, 96, 64}, {9, 200, 33}, {17, 40, 9}, {33, 129, 67}, {64, 72, 20}, {1, 2049, 130}};
  unsigned index = 0;
  for (const Size& size : sizes) {
    for (const DType dtype : weight_dtypes(ops)) {
      for (const double sparsity : {-1.0, 0.0, 0.4, 0.5, 0.9, 1.0}) {
        LinearCase c{.n = size.n, .k = size.k, .m = size.m, .weight_dtype = dtype, .sparsity = sparsity, .inputs = inputs};
        c.bias = index % 2 == 1;
        c.residual = index % 3 == 1;
        c.in_place = c.residual && index % 2 == 0;
        c.f32_out = index % 5 == 0;
        c.activation = kActivations[index % 7 < 5 ? index % 7 : 0];
        c.pad = index % 4 == 3 ? 3 : index % 4 == 1 ? 16 : 0;
        check_linear(ops, c, index++);
        if (::testing::Test::HasFailure()) return;  // one case's message is enough
      }
    }
  }
}

// Every scaled dtype that the device takes: one scale a row and groups.
inline void scaled_linear_cases(Ops& ops) {
  struct Size {
    std::int64_t n, k, m, group;
  };
  const Size sizes[] = {{1, 1, 1, 1},      {1, 64, 16, 64},  {1, 576, 96, 576}, {2, 7, 5, 7},      {3, 65, 31, 64},    {4, 256, 48, 128},
                        {5, 1023, 3, 192}, {8, 200, 64, 64}, {9, 200, 33, 200}, {33, 129, 67, 64}, {1, 2049, 130, 64}, {30, 960, 40, 960}};
  unsigned index = 500;
  for (const Size& size : sizes) {
    for (const DType dtype : kScaledDTypes) {
      if (!ops.takes(dtype)) continue;
      for (const double sparsity : {-1.0, 0.0, 0.5, 0.9, 1.0}) {
        LinearCase c{.n = size.n, .k = size.k, .m = size.m, .weight_dtype = dtype, .sparsity = sparsity, .group = size.group};
        c.bias = index % 2 == 1;
        c.residual = index % 3 == 1;
        c.in_place = c.residual && index % 2 == 0;
        c.activation = kActivations[index % 7 < 5 ? index % 7 : 0];
        c.pad = index % 4 == 3 ? 3 : 0;
        check_linear(ops, c, index++);
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

// Shapes nobody thought of.
inline void linear_random_cases_of(Ops& ops, DType inputs) {
  Random random(77);
  for (unsigned trial = 0; trial < 150; ++trial) {
    LinearCase c{.n = 1 + random.below(40), .k = 1 + random.below(300), .m = 1 + random.below(100), .inputs = inputs};
    const std::vector<DType> dtypes = weight_dtypes(ops);
    c.weight_dtype = dtypes[static_cast<std::size_t>(random.below(3)) % dtypes.size()];
    c.sparsity = random.below(4) == 0 ? -1 : random.uniform();
    c.bias = random.below(2) == 0;
    c.residual = random.below(2) == 0;
    c.in_place = c.residual && random.below(2) == 0;
    c.f32_out = random.below(2) == 0;
    c.activation = kActivations[random.below(5)];
    c.pad = random.below(9);
    check_linear(ops, c, 1000 + trial);
    if (::testing::Test::HasFailure()) return;
  }
}

inline void linear_cases(Ops& ops) { linear_cases_of(ops, DType::f32); }
inline void linear_random_cases(Ops& ops) { linear_random_cases_of(ops, DType::f32); }

// Random weights are their formula's: products with rows of the identity show every element. 64 rows at a time, and all at once.
inline void random_weight_cases(Ops& ops) {
  constexpr std::int64_t kCols = 203, kOutputs = 130;
  std::vector<float> identity(kCols * kCols);
  for (std::size_t i = 0; i < kCols; ++i) identity[i * kCols + i] = 1;
  const TestTensor x(ops, ops.activation_dtype(), {kCols, kCols}, identity);
  for (const DType dtype : weight_dtypes(ops)) {
    for (const bool is_sparse : {false, true}) {
      const RandomWeight wanted{.rows = kOutputs, .cols = kCols, .dtype = dtype, .is_sparse = is_sparse, .sparsity = 0.6, .seed = 42};
      const std::unique_ptr<PackedWeight> weight = ops.pack(wanted);
      EXPECT_EQ(weight->is_sparse(), is_sparse);
      EXPECT_EQ(weight->dtype(), dtype);
      for (const std::int64_t step : {std::int64_t{64}, kCols}) {
        const TestTensor out = TestTensor::poisoned(ops, ops.activation_dtype(), {kCols, kOutputs});
        for (std::int64_t begin = 0; begin < kCols; begin += step) {
          const std::int64_t end = std::min(begin + step, kCols);
          ops.linear(out.view().rows(begin, end), x.view().rows(begin, end), *weight, {});
        }
        const std::vector<float> actual = out.read();
        std::int64_t kept = 0;
        for (std::int64_t row = 0; row < kOutputs; ++row) {
          for (std::int64_t col = 0; col < kCols; ++col) {
            const std::uint64_t bits = random_bits(wanted.seed, static_cast<std::uint64_t>(row * kCols + col));
            const bool is_kept = bits >> 32 >= wanted.threshold();
            kept += is_kept ? 1 : 0;
            ASSERT_EQ(actual[static_cast<std::size_t>(col * kOutputs + row)],
                      is_kept ? round_to(dtype, random_value(bits, wanted.scale)) : 0)
                << row << ", " << col;
          }
        }
        EXPECT_NEAR(static_cast<double>(kept) / (kOutputs * kCols), is_sparse ? 0.4 : 1.0, 0.02);
      }
    }
  }
}

// A row's bits depend neither on the rows beside it nor on how many there are.
inline void linear_rows_stand_alone(Ops& ops) {
  constexpr std::int64_t kRows = 37, kCols = 203, kOutputs = 45;
  std::vector<DType> dtypes = weight_dtypes(ops);
  std::copy_if(std::begin(kScaledDTypes), std::end(kScaledDTypes), std::back_inserter(dtypes),
               [&](DType dtype) { return ops.takes(dtype); });
  for (const DType dtype : dtypes) {
    for (const double sparsity : {-1.0, 0.5}) {
      Random random(11);
      const TestWeight weight(ops, dtype, kOutputs, kCols, sparsity, random, dtype == DType::i4 ? 64 : kCols);
      const TestTensor x(ops, ops.activation_dtype(), {kRows, kCols}, normal(random, kRows * kCols));
      const TestTensor together = TestTensor::poisoned(ops, ops.activation_dtype(), {kRows, kOutputs});
      ops.linear(together, x, *weight.packed);
      for (const std::int64_t chunk : {1, 2, 3, 4, 5, 8, 16, 20}) {
        const TestTensor apart = TestTensor::poisoned(ops, ops.activation_dtype(), {kRows, kOutputs});
        for (std::int64_t i = 0; i < kRows; i += chunk) {
          const std::int64_t end = std::min(i + chunk, kRows);
          ops.linear(apart.view().rows(i, end), x.view().rows(i, end), *weight.packed);
        }
        EXPECT_EQ(apart.read(), together.read()) << name_of(dtype) << " sparsity " << sparsity << " in chunks of " << chunk;
      }
    }
  }
}

}  // namespace gossamer::testing
