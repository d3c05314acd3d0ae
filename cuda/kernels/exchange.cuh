// One-shot all-reduce and all-gather over exchange_protocol.h.
#pragma once

#include "device/numeric.cuh"
#include "device/ptx.cuh"
#include "kernels/exchange_params.h"

namespace gossamer::cuda {

constexpr std::uint32_t kSpinsBetweenLooks = 4096;  // at p.end, which lies in host memory

struct SystemMemory {
  __device__ static ExchangeUnit load(const ExchangeUnit* from) {
    ExchangeUnit unit;
    ptx::load_system_16(unit.words, from);
    return unit;
  }
  __device__ static void store(ExchangeUnit* to, const ExchangeUnit& unit) { ptx::store_system_16(to, unit.words); }
};

// Eight elements of every rank, added up in fp32 in the order of the ranks.
template <class T, int kRanks>
__device__ __forceinline__ ExchangeUnit sum_by_rank(const ExchangeUnit (&values)[kRanks]) {
  float sums[8];
#pragma unroll
  for (int rank = 0; rank < kRanks; ++rank) {
    const auto& part = reinterpret_cast<const Eight<T>&>(values[rank]);
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] = rank == 0 ? to_float(part.at[i]) : sums[i] + to_float(part.at[i]);
  }
  ExchangeUnit out;
  store_eight(reinterpret_cast<T*>(&out), sums);
  return out;
}

// Sends this thread's units, then calls fn(index, values) for each once all ranks' values are there. A group that has ended leaves early.
template <int kRanks, class Fn>
__device__ __forceinline__ void exchange(const ExchangeParams& p, const Fn& fn) {
  const ExchangeBlock<kRanks, SystemMemory> block(p.stages, p.rank, blockIdx.x, kExchangeBlockCapacity, p.state[blockIdx.x]);
  const std::int64_t first = blockIdx.x * p.block_units;
  const auto units = static_cast<std::uint32_t>(p.units - first < p.block_units ? p.units - first : p.block_units);
  ExchangeUnit own[kExchangeUnits];
#pragma unroll
  for (int i = 0; i < kExchangeUnits; ++i) {
    const std::uint32_t unit = threadIdx.x + static_cast<std::uint32_t>(i) * kExchangeThreads;
    if (unit >= units) break;
    own[i] = sendable(static_cast<const ExchangeUnit*>(p.x)[first + unit]);
    block.send(unit, own[i]);
  }
  for (std::uint32_t unit = threadIdx.x; unit < block.previous_units(); unit += kExchangeThreads) block.empty_previous(unit);
#pragma unroll
  for (int i = 0; i < kExchangeUnits; ++i) {
    const std::uint32_t unit = threadIdx.x + static_cast<std::uint32_t>(i) * kExchangeThreads;
    if (unit >= units) break;
    ExchangeUnit values[kRanks];
    bool has_ended = false;
    for (std::uint32_t spins = 1; !has_ended && !block.receive(unit, own[i], values); ++spins) {
      has_ended = spins % kSpinsBetweenLooks == 0 && ptx::load_system_u32(p.end) != 0;
    }
    if (has_ended) break;
    fn(first + unit, values);
  }
  __syncthreads();  // all have read the state
  if (threadIdx.x == 0) p.state[blockIdx.x] = block.next(units);
}

template <class T, int kRanks>
__global__ void __launch_bounds__(kExchangeThreads) all_reduce_kernel(const __grid_constant__ ExchangeParams p) {
  exchange<kRanks>(p, [&](std::int64_t index, const ExchangeUnit(&values)[kRanks]) {
    static_cast<ExchangeUnit*>(p.out)[index] = sum_by_rank<T, kRanks>(values);
  });
}

template <int kRanks>
__global__ void __launch_bounds__(kExchangeThreads) all_gather_kernel(const __grid_constant__ ExchangeParams p) {
  exchange<kRanks>(p, [&](std::int64_t index, const ExchangeUnit(&values)[kRanks]) {
    ExchangeUnit* to = static_cast<ExchangeUnit*>(p.out) + index / p.row_units * p.row_units * kRanks + index % p.row_units;
#pragma unroll
    for (int rank = 0; rank < kRanks; ++rank) to[rank * p.row_units] = values[rank];
  });
}

}  // namespace gossamer::cuda
