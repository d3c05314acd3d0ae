// PeerExchange: small sums and gathers over GPUs of one host that reach each other's memory, by one kernel and without NCCL. The same
// order of ranks whatever the size, and so the same bits in any company. May be recorded in graphs.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "comm/rank_group.h"
#include "core/tensor.h"
#include "cuda_memory.h"
#include "kernels/exchange_params.h"

namespace gossamer::cuda {

class PeerExchange {
 public:
  // Collective. Null, on every rank, where one of them cannot reach another's memory: other hosts, no NVLink or PCIe path between them,
  // more than kMaxPeers ranks.
  static std::unique_ptr<PeerExchange> make(RankGroup& group, Allocator& device_memory);
  ~PeerExchange();
  PeerExchange(const PeerExchange&) = delete;
  PeerExchange& operator=(const PeerExchange&) = delete;

  // Whether all_reduce_sum takes it: f16 or bf16, whole units of 16 bytes, at most `most_bytes`. The same on all ranks.
  static bool sums(const Tensor& x, std::int64_t most_bytes);
  void all_reduce_sum(const Tensor& x, cudaStream_t stream);  // contiguous, in place
  // Whether all_gather_last takes it: rows of whole units.
  static bool gathers(const Tensor& part);
  void all_gather_last(const Tensor& out, const Tensor& part, cudaStream_t stream);  // contiguous

  // No kernel waits for other ranks any more; their results are lost. Any thread.
  void end();

 private:
  PeerExchange(RankGroup& group, Allocator& device_memory);
  void open_peers(RankGroup& group);

  const int ranks_;
  PinnedAllocator pinned_;
  Buffer end_;    // u32, which kernels look at
  Buffer state_;  // ExchangeState of each block
  void* own_stage_ = nullptr;
  ExchangeParams params_;  // what all launches have in common
};

}  // namespace gossamer::cuda
