// A product of a packed weight and random activations, by any SpMM kernel on the emulator, and what it must come to.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "emulator.h"
#include "kernels/pack_x.cuh"
#include "plan/spmm_plan.h"
#include "sparse/tiled_weight.h"

namespace gossamer::testing {

inline std::uint16_t bits_of(float v, bool bf16) { return bf16 ? to_bfloat16(v).bits : to_float16(v).bits; }
inline float value_of(std::uint16_t bits, bool bf16) { return bf16 ? to_float(BFloat16{bits}) : to_float(Float16{bits}); }

struct Problem {
  std::int64_t m, k, n;
  double density;
  int sms;  // so how many blocks there are, and how they split k
};

class EmulatedProduct {
 public:
  struct Launch {
    unsigned threads;
    int shared;
    std::function<void(const SpmmParams&)> kernel;
  };

  EmulatedProduct(const Problem& p, TileFormat format, bool is_bf16, std::optional<SpmmShape> shape = std::nullopt)
      : problem_(p),
        is_bf16_(is_bf16),
        random_(static_cast<unsigned>(p.m * 31 + p.k * 7 + p.n)),
        dense_(static_cast<std::size_t>(p.m * p.k)) {
    std::uniform_real_distribution<float> value(-1, 1);
    std::bernoulli_distribution keep(p.density);
    for (auto& w : dense_) w = keep(random_) ? bits_of(value(random_), is_bf16) : 0;
    x_ = random_halves(p.n * p.k);
    OwnedTensor dense(allocator_, is_bf16 ? DType::bf16 : DType::f16, {p.m, p.k});
    std::memcpy(dense.view.raw(), dense_.data(), dense_.size() * 2);
    ThreadPool pool(1);
    const OwnedSparseWeight sparse = sparse_from_dense(dense.view, allocator_);
    packed_ = std::make_unique<OwnedTiledWeight>(pack_tiles(sparse.view, format, allocator_, pool));
    DeviceLimits limits;
    limits.num_sms = p.sms;
    config = plan_spmm({format, p.m, p.k, p.n, packed_->view.max_record_bytes, p.k % 8 == 0, shape}, limits);
  }

  std::vector<std::uint16_t> random_halves(std::int64_t count) {
    std::uniform_real_distribution<float> value(-1, 1);
    std::vector<std::uint16_t> v(static_cast<std::size_t>(count));
    for (auto& h : v) h = bits_of(value(random_), is_bf16_);
    return v;
  }

  // params: out and the epilogue.
  void run(SpmmParams params, std::uint64_t seed, const Launch& launch) const {
    const TiledWeight& w = packed_->view;
    std::vector<float> partials(static_cast<std::size_t>(config.partial_floats), std::numeric_limits<float>::quiet_NaN());
    std::vector<std::uint32_t> tickets(static_cast<std::size_t>(config.tickets));
    std::vector<uint4> packed_x(static_cast<std::size_t>(config.packed_x_bytes / 16), uint4{~0U, ~0U, ~0U, ~0U});
    params.data = w.data.data<std::uint8_t>();
    params.offsets = reinterpret_cast<const std::uint32_t*>(w.offsets.data<std::int32_t>());
    params.x = x_.data();
    params.partials = partials.data();
    params.tickets = tickets.data();
    params.packed_x = reinterpret_cast<std::uint8_t*>(packed_x.data());
    params.ldx = problem_.k;
    params.ldo = params.ldr = problem_.m;
    params.m = static_cast<std::int32_t>(problem_.m);
    params.k = static_cast<std::int32_t>(problem_.k);
    params.n = static_cast<std::int32_t>(problem_.n);
    params.row_blocks = static_cast<std::int32_t>(w.row_blocks());
    params.records = static_cast<std::int32_t>(w.records_per_row_block());
    params.slot_bytes = static_cast<std::uint32_t>(config.slot_bytes);
    params.stages = config.stages;
    params.x_is_aligned = problem_.k % 8 == 0;
    ASSERT_EQ(launch.shared, config.shared_bytes) << config.to_string();
    if (config.packs_x) {
      emulator::run({static_cast<unsigned>((packed_x.size() + 255) / 256), 1, 256}, 0, seed, [&] {
        config.kernel == SpmmKernel::mma ? pack_x_kernel<false>(params, config.n_tiles, config.passes)
                                         : pack_x_kernel<true>(params, config.n_tiles, config.passes);
      });
    }
    emulator::run({static_cast<unsigned>(config.ctas), static_cast<unsigned>(config.passes), launch.threads},
                  static_cast<std::uint32_t>(launch.shared), seed, [&] { launch.kernel(params); });
    for (const std::uint32_t t : tickets) ASSERT_EQ(t, 0U);
  }

  std::vector<float> sums(std::uint64_t seed, const Launch& launch) const {
    std::vector<float> out(static_cast<std::size_t>(problem_.n * problem_.m), std::numeric_limits<float>::quiet_NaN());
    SpmmParams params;
    params.out = out.data();
    params.out_type = SpmmOut::f32;
    run(params, seed, launch);
    return out;
  }

  // fp32 sums of k products: k eps |w||x|, as the GPU test has it. The same bits whatever the order of events.
  void check(const Launch& launch) const {
    const std::vector<float> out = sums(1, launch);
    for (std::int64_t n = 0; n < problem_.n; ++n) {
      for (std::int64_t r = 0; r < problem_.m; ++r) {
        double sum = 0, norm = 0;
        for (std::int64_t c = 0; c < problem_.k; ++c) {
          const double product = static_cast<double>(value_of(dense_[static_cast<std::size_t>(r * problem_.k + c)], is_bf16_)) *
                                 value_of(x_[static_cast<std::size_t>(n * problem_.k + c)], is_bf16_);
          sum += product;
          norm += std::abs(product);
        }
        const double bound = 4 * std::ldexp(1.0, -24) * (std::sqrt(static_cast<double>(problem_.k)) + 8) * norm + 1e-30;
        ASSERT_LE(std::abs(out[static_cast<std::size_t>(n * problem_.m + r)] - sum), bound)
            << config.to_string() << " at n " << n << ", row " << r;
      }
    }
    const std::vector<float> again = sums(2, launch);
    EXPECT_EQ(std::memcmp(out.data(), again.data(), out.size() * sizeof(float)), 0);
  }

  SpmmConfig config;

 private:
  Problem problem_;
  bool is_bf16_;
  HostAllocator allocator_;
  std::mt19937 random_;
  std::vector<std::uint16_t> dense_, x_;
  std::unique_ptr<OwnedTiledWeight> packed_;
};

}  // namespace gossamer::testing
