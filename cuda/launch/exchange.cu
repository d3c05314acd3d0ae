#include "kernels/exchange.cuh"
#include "launch/dispatch.cuh"
#include "launch/exchange.h"

namespace gossamer::cuda {
namespace {

template <int kRanks>
struct Ranks {
  static constexpr int value = kRanks;
};

template <class F>
cudaError_t visit_ranks(int ranks, const F& f) {
  switch (ranks) {
    case 2: return f(Ranks<2>{});
    case 3: return f(Ranks<3>{});
    case 4: return f(Ranks<4>{});
    case 5: return f(Ranks<5>{});
    case 6: return f(Ranks<6>{});
    case 7: return f(Ranks<7>{});
    case 8: return f(Ranks<8>{});
    default: return cudaErrorInvalidValue;
  }
}

unsigned spread(ExchangeParams& params) {
  params.block_units = exchange_block_units(params.units);
  return static_cast<unsigned>(exchange_blocks(params.units));
}

}  // namespace

cudaError_t launch_all_reduce(ExchangeParams params, int ranks, DType dtype, cudaStream_t stream) {
  const unsigned blocks = spread(params);
  return visit_half(dtype, [&](auto tag) {
    return visit_ranks(ranks, [&](auto count) {
      using T = typename decltype(tag)::type;
      all_reduce_kernel<T, decltype(count)::value><<<blocks, kExchangeThreads, 0, stream>>>(params);
      return cudaGetLastError();
    });
  });
}

cudaError_t launch_all_gather(ExchangeParams params, int ranks, cudaStream_t stream) {
  const unsigned blocks = spread(params);
  return visit_ranks(ranks, [&](auto count) {
    all_gather_kernel<decltype(count)::value><<<blocks, kExchangeThreads, 0, stream>>>(params);
    return cudaGetLastError();
  });
}

}  // namespace gossamer::cuda
