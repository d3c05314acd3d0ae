// The expansion of tiled weights, by the kernels' own source on the emulator: exact, and zero where there is nothing.
#include "kernels/expand.cuh"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "emulator.h"
#include "kernels/expand_two_four.cuh"
#include "sparse/tiled_weight.h"

namespace gossamer {
namespace {

struct ExpandLaunch {
  TileFormat format;
  int threads;
  std::function<int(int)> shared;  // of the bytes of a slot
  std::function<void(const ExpandParams&)> kernel;
};

void check(std::int64_t m, std::int64_t k, double density, const ExpandLaunch& launch) {
  HostAllocator allocator;
  ThreadPool pool(1);
  std::mt19937 random(static_cast<unsigned>(m * 31 + k));
  std::bernoulli_distribution keep(density);
  OwnedTensor dense(allocator, DType::f16, {m, k});
  auto* w = static_cast<std::uint16_t*>(dense.view.raw());
  for (std::int64_t i = 0; i < m * k; ++i) w[i] = keep(random) ? static_cast<std::uint16_t>(1 + random() % 0x7bff) : 0;
  const OwnedTiledWeight packed = pack_tiles(sparse_from_dense(dense.view, allocator).view, launch.format, allocator, pool);
  ExpandParams p;
  p.data = packed.view.data.data<std::uint8_t>();
  p.offsets = reinterpret_cast<const std::uint32_t*>(packed.view.offsets.data<std::int32_t>());
  p.ldw = (k + 7) / 8 * 8;
  p.m = static_cast<std::int32_t>(m);
  p.row_blocks = static_cast<std::int32_t>(packed.view.row_blocks());
  p.records = static_cast<std::int32_t>(packed.view.records_per_row_block());
  p.slot_bytes = static_cast<std::uint32_t>(packed.view.max_record_bytes + 16);
  std::vector<uint4> out(static_cast<std::size_t>(m * p.ldw / 8), uint4{~0U, ~0U, ~0U, ~0U});
  p.out = out.data();
  emulator::run({2, 1, static_cast<unsigned>(launch.threads)}, static_cast<std::uint32_t>(launch.shared(static_cast<int>(p.slot_bytes))), 5,
                [&] { launch.kernel(p); });
  for (std::int64_t r = 0; r < m; ++r) {
    for (std::int64_t c = 0; c < p.ldw; ++c) {
      std::uint16_t value;
      std::memcpy(&value, reinterpret_cast<const std::uint8_t*>(out.data()) + 2 * (r * p.ldw + c), 2);
      ASSERT_EQ(value, c < k ? w[r * k + c] : 0) << name_of(launch.format) << ", row " << r << ", column " << c;
    }
  }
}

template <class Decoder>
ExpandLaunch by(TileFormat format) {
  using Layout = ExpandLayout<Decoder>;
  return {format, Layout::kWarps * 32, [](int slot) { return Layout::total(slot); },
          [](const ExpandParams& p) { expand_kernel<Decoder>(p); }};
}

TEST(Expand, IsExact) {
  const ExpandLaunch launches[] = {
      by<BitmapDecoder>(TileFormat::bitmap),
      by<TiledCslDecoder>(TileFormat::tiled_csl),
      {TileFormat::two_four, ExpandTwoFourLayout::kWarps * 32, [](int slot) { return ExpandTwoFourLayout::total(slot); },
       [](const ExpandParams& p) { expand_two_four_kernel(p); }}};
  for (const ExpandLaunch& launch : launches) {
    check(200, 1000, 0.3, launch);
    check(33, 65, 1.0, launch);
    check(127, 509, 0.05, launch);
    check(1, 1, 0.0, launch);
  }
}

}  // namespace
}  // namespace gossamer
