// Dense products by cuBLASLt, which is loaded at run time: the system's, or that of the nvidia-cublas wheel. Without it the backend's own
// kernel serves every shape, more slowly for many tokens.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "core/dtype.h"

namespace gossamer::cuda {

// out[n, m] = x[n, k] · Wᵀ (+ bias) (relu) (+ residual); row strides in elements.
struct LtProblem {
  const void* weight = nullptr;    // [m, k] of `act`
  const void* x = nullptr;         // [n, k] of `act`
  void* out = nullptr;             // [n, m] of `out_dtype`
  const void* bias = nullptr;      // [m] of `out_dtype`, or null
  const void* residual = nullptr;  // like out, or null; may be out
  std::int64_t m = 0, k = 0, n = 0, ldw = 0, ldx = 0, ldo = 0, ldr = 0;
  DType act = DType::f16, out_dtype = DType::f16;
  bool relu = false;  // not together with a residual
};

class CublasLt {
 public:
  // Null, with the reason in `problem`, where no library is found.
  static std::unique_ptr<CublasLt> load(std::string& problem);
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;
  // Enqueues; false if the library has no kernel for the problem (nothing was enqueued). The algorithm is chosen at a shape's first call
  // and kept.
  bool run(const LtProblem& problem, void* workspace, cudaStream_t stream);
  std::size_t version() const;

 private:
  struct Library;
  struct Plan;
  // m, k, n, ldw, ldx, ldo, ldr, types and epilogue, alignments: what the choice depends on.
  using Key =
      std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, int, std::uint64_t>;

  explicit CublasLt(std::unique_ptr<Library> library);
  Plan& plan_for(const LtProblem& problem);

  std::unique_ptr<Library> library_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace gossamer::cuda
