#include "peer_exchange.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <fstream>
#include <span>
#include <vector>

#include "core/error.h"
#include "launch/exchange.h"
#include "status.h"

namespace gossamer::cuda {
namespace {

constexpr std::int64_t kUnit = 16;  // bytes

bool is_whole_units(const Tensor& x, std::int64_t bytes) {
  return bytes % kUnit == 0 && reinterpret_cast<std::uintptr_t>(x.raw()) % kUnit == 0;
}

// What a rank offers to the others. A handle means something on its own host only, and elsewhere it could fit by chance.
struct Offer {
  std::array<char, 64> boot_id{};
  cudaIpcMemHandle_t handle{};
};

std::array<char, 64> boot_id_of_host() {
  std::array<char, 64> id{};
  std::ifstream("/proc/sys/kernel/random/boot_id").read(id.data(), id.size() - 1);
  return id;
}

// Everyone's, by rank.
std::vector<Offer> share(RankGroup& group, const Offer& own) {
  const std::vector<std::vector<std::byte>> parts = group.gather(std::as_bytes(std::span(&own, 1)));
  std::vector<std::byte> joined;
  for (const std::vector<std::byte>& part : parts) joined.insert(joined.end(), part.begin(), part.end());
  group.broadcast(joined);
  std::vector<Offer> all(static_cast<std::size_t>(group.size()));
  check(joined.size() == all.size() * sizeof(own), "the ranks disagree on their memory handles");
  std::memcpy(all.data(), joined.data(), joined.size());
  return all;
}

}  // namespace

std::unique_ptr<PeerExchange> PeerExchange::make(RankGroup& group, Allocator& device_memory) {
  if (group.size() > kMaxPeers) return nullptr;
  std::unique_ptr<PeerExchange> exchange(new PeerExchange(group, device_memory));
  exchange->open_peers(group);
  const void* const* const stages = exchange->params_.stages;
  const bool reaches_all = std::all_of(stages, stages + group.size(), [](const void* stage) { return stage != nullptr; });
  const bool all_reach_all = group.minimum(reaches_all ? 1 : 0) == 1;
  return all_reach_all ? std::move(exchange) : nullptr;
}

PeerExchange::PeerExchange(RankGroup& group, Allocator& device_memory)
    : ranks_(group.size()), end_(pinned_, sizeof(std::uint32_t)), state_(device_memory, kExchangeMaxBlocks * sizeof(ExchangeState)) {
  const std::size_t bytes = exchange_stage_bytes(ranks_);
  // Never freed: peers may hold it open for as long as they run, and a process joins one group in its life.
  check_status(cudaMalloc(&own_stage_, bytes), "cudaMalloc of the ranks' shared memory");
  const std::vector<std::uint32_t> empty(bytes / sizeof(std::uint32_t), kExchangeEmpty);
  check_status(cudaMemcpy(own_stage_, empty.data(), bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  check_status(cudaMemset(state_.data(), 0, state_.bytes()), "cudaMemset");
  check_status(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  std::memset(end_.data(), 0, end_.bytes());
  params_.state = static_cast<ExchangeState*>(state_.data());
  params_.end = static_cast<const std::uint32_t*>(end_.data());
  params_.rank = group.rank();
}

// Leaves null where a rank's memory does not open.
void PeerExchange::open_peers(RankGroup& group) {
  Offer own{.boot_id = boot_id_of_host()};
  const bool is_shared = cudaIpcGetMemHandle(&own.handle, own_stage_) == cudaSuccess;
  const std::vector<Offer> offers = share(group, own);
  for (int rank = 0; rank < ranks_; ++rank) {
    const Offer& offer = offers[static_cast<std::size_t>(rank)];
    void*& stage = params_.stages[rank];
    if (rank == params_.rank) {
      stage = is_shared ? own_stage_ : nullptr;
    } else if (offer.boot_id != own.boot_id || cudaIpcOpenMemHandle(&stage, offer.handle, cudaIpcMemLazyEnablePeerAccess) != cudaSuccess) {
      stage = nullptr;
    }
  }
  cudaGetLastError();  // what did not open is no error
}

PeerExchange::~PeerExchange() {
  for (int rank = 0; rank < ranks_; ++rank) {
    if (rank != params_.rank && params_.stages[rank] != nullptr) cudaIpcCloseMemHandle(params_.stages[rank]);
  }
}

bool PeerExchange::sums(const Tensor& x, std::int64_t most_bytes) {
  return (x.dtype() == DType::f16 || x.dtype() == DType::bf16) && is_whole_units(x, x.nbytes()) &&
         x.nbytes() <= std::min(most_bytes, max_exchange_units() * kUnit);
}

void PeerExchange::all_reduce_sum(const Tensor& x, cudaStream_t stream) {
  ExchangeParams params = params_;
  params.x = params.out = x.raw();
  params.units = x.nbytes() / kUnit;
  check_status(launch_all_reduce(params, ranks_, x.dtype(), stream), "all_reduce");
}

bool PeerExchange::gathers(const Tensor& part) {
  const std::int64_t row_bytes = part.size(1) * static_cast<std::int64_t>(size_of(part.dtype()));
  return is_whole_units(part, row_bytes) && row_bytes <= max_exchange_units() * kUnit;
}

// As many rows at once as fit.
void PeerExchange::all_gather_last(const Tensor& out, const Tensor& part, cudaStream_t stream) {
  ExchangeParams params = params_;
  params.row_units = part.size(1) * static_cast<std::int64_t>(size_of(part.dtype())) / kUnit;
  const std::int64_t most_rows = max_exchange_units() / params.row_units;
  for (std::int64_t row = 0; row < part.size(0); row += most_rows) {
    const std::int64_t last = std::min(row + most_rows, part.size(0));
    params.x = part.rows(row, last).raw();
    params.out = out.rows(row, last).raw();
    params.units = (last - row) * params.row_units;
    check_status(launch_all_gather(params, ranks_, stream), "all_gather");
  }
}

void PeerExchange::end() { std::atomic_ref(*static_cast<std::uint32_t*>(end_.data())).store(1); }

}  // namespace gossamer::cuda
