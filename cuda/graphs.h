// Recorded sequences of launches, by key.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <unordered_map>

namespace gossamer::cuda {

class Graphs {
 public:
  Graphs() = default;
  ~Graphs() { clear(); }
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  // A key's first call just runs fn, so that workspaces grow, kernels load and plans are made outside of a recording; the second records
  // and runs it; later ones replay.
  void run(std::uint64_t key, const std::function<void()>& fn, cudaStream_t stream);
  void clear();

 private:
  std::unordered_map<std::uint64_t, cudaGraphExec_t> graphs_;  // null: seen once
};

}  // namespace gossamer::cuda
