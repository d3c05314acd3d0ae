// Cases of Ops::linear with weights of 8-bit values, for backends that take them: dense and sparse, any number of tokens, every epilogue,
// against the sum in double; and that random ones are their formula's.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "support/linear_cases.h"

namespace gossamer::testing {

inline constexpr DType kByteDTypes[] = {DType::i8, DType::e4m3};

// Random values of [m, k] with one scale a row; sparsity < 0: dense form.
struct ByteTestWeight {
  ByteTestWeight(Ops& ops, DType dtype, std::int64_t m, std::int64_t k, double sparsity, Random& random) {
    HostAllocator host;
    OwnedScaledMatrix matrix(host, dtype, m, k, k);
    auto* bytes = static_cast<std::uint8_t*>(matrix.view.values.raw());
    for (std::int64_t i = 0; i < m * k; ++i) {
      auto byte = static_cast<std::uint8_t>(random.below(256));
      if (dtype == DType::e4m3 && (byte & 0x7fU) == 0x7fU) byte = 0x7e;
      bytes[i] = random.uniform() < sparsity ? 0 : byte;
    }
    for (std::int64_t r = 0; r < m; ++r) matrix.view.scales.data<float>()[r] = static_cast<float>(0.001 + 0.01 * random.uniform());
    const OwnedTensor dense(host, DType::f32, {m, k});
    scaled_to_dense(matrix.view, dense.view);
    values.assign(dense.view.data<float>(), dense.view.data<float>() + m * k);
    packed = sparsity < 0 ? ops.pack(matrix.view) : ops.pack(sparse_from_scaled(matrix.view, host).view);
  }
  std::vector<float> values;
  std::unique_ptr<PackedWeight> packed;
};

// rounds_x: activations may be rounded to 8 bits with a scale per token.
inline void byte_weight_cases(Ops& ops, bool rounds_x) {
  const DType act = ops.activation_dtype();
  const double unit = act == DType::f32   ? 0x1p-24
                      : act == DType::f16 ? 0x1p-11
                                          : 0x1p-8;  // rounding of an activation, or of a widened weight
  Random random(77);
  int trial = 0;
  for (const DType dtype : kByteDTypes) {
    for (const auto& [m, k] : {std::pair{1, 1}, std::pair{33, 65}, std::pair{130, 200}, std::pair{64, 1031}, std::pair{4500, 72}}) {
      for (const double sparsity : {-1.0, 0.0, 0.5, 1.0}) {
        const ByteTestWeight weight(ops, dtype, m, k, sparsity, random);
        for (const std::int64_t n : {1, 7, 16, 20, 41}) {
          if (m > 1000 && n > 16) continue;
          const Activation activation = kActivations[trial % 5];
          const bool has_bias = trial % 2 == 0, has_residual = trial % 3 == 0;
          ++trial;
          const TestTensor x(ops, act, {n, k}, normal(random, n * k)), bias(ops, act, {m}, normal(random, m)),
              residual(ops, DType::f32, {n, m}, normal(random, n * m));
          const TestTensor out = TestTensor::poisoned(ops, DType::f32, {n, m});
          Epilogue epilogue;
          epilogue.activation = activation;
          if (has_bias) epilogue.bias = bias.view();
          if (has_residual) epilogue.residual = residual.view();
          ops.linear(out, x, *weight.packed, epilogue);
          const std::vector<float> actual = out.read(), xs = x.read(), biases = bias.read(), residuals = residual.read();
          for (std::int64_t i = 0; i < n * m; ++i) {
            const std::int64_t token = i / m, row = i % m;
            double sum = has_bias ? biases[static_cast<std::size_t>(row)] : 0, norm = std::abs(sum), weights = 0, top = 0;
            for (std::int64_t c = 0; c < k; ++c) {
              const double w = weight.values[static_cast<std::size_t>(row * k + c)], v = xs[static_cast<std::size_t>(token * k + c)];
              sum += w * v;
              norm += std::abs(w * v);
              weights += std::abs(w);
              top = std::max(top, std::abs(v));
            }
            double bound = norm * (unit + 0x1p-22 * (std::sqrt(static_cast<double>(k)) + 12));
            if (rounds_x && dtype == DType::i8) bound += weights * top / 254 * 1.01;
            double expected = exact_activation(sum, activation);  // no steeper than 1.13
            if (has_residual) expected += residuals[static_cast<std::size_t>(i)];
            ASSERT_NEAR(actual[static_cast<std::size_t>(i)], expected, 1.13 * bound + 0x1p-20 * std::abs(expected) + 1e-6)
                << name_of(dtype) << " [" << m << ", " << k << "] sparsity " << sparsity << " n " << n << " at " << i;
          }
        }
      }
    }
  }
}

// Products with rows of the identity show every element: 20 tokens at a time, and all at once.
inline void random_byte_weight_cases(Ops& ops) {
  constexpr std::int64_t kCols = 203, kOutputs = 130;
  std::vector<float> identity(kCols * kCols);
  for (std::size_t i = 0; i < kCols; ++i) identity[i * kCols + i] = 1;
  const DType act = ops.activation_dtype();
  const TestTensor x(ops, act, {kCols, kCols}, identity);
  for (const DType dtype : kByteDTypes) {
    for (const bool is_sparse : {false, true}) {
      const RandomWeight wanted{.rows = kOutputs, .cols = kCols, .dtype = dtype, .is_sparse = is_sparse, .sparsity = 0.6, .seed = 42};
      const std::unique_ptr<PackedWeight> weight = ops.pack(wanted);
      for (const std::int64_t step : {std::int64_t{20}, kCols}) {
        const TestTensor out = TestTensor::poisoned(ops, act, {kCols, kOutputs});
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
            const std::uint8_t byte = random_byte(wanted, bits);
            const float value = dtype == DType::i8 ? static_cast<float>(static_cast<std::int8_t>(byte)) : to_float(Float8E4M3{byte});
            ASSERT_EQ(actual[static_cast<std::size_t>(col * kOutputs + row)], is_kept ? round_to(act, value * wanted.byte_scale()) : 0)
                << name_of(dtype) << " " << row << ", " << col;
          }
        }
        EXPECT_NEAR(static_cast<double>(kept) / (kOutputs * kCols), is_sparse ? 0.4 : 1.0, 0.02);
      }
    }
  }
}

}  // namespace gossamer::testing
