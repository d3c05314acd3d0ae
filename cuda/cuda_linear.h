// Ops::linear on the GPU: which kernel serves a product, and the workspaces they need.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <tuple>

#include "byte_linear.h"
#include "cublas_lt.h"
#include "cuda_weight.h"
#include "ops/ops.h"
#include "plan/cost_table.h"

namespace gossamer::cuda {

struct LinearOptions {
  bool batch_invariant = false;  // one order of sums for any number of tokens: own kernels only, never expanded
  EightBit eight_bit = EightBit::off;
  CostTable table;
};

class CudaLinear {
 public:
  // allocator: of the device; outlives this. cublas: null = the backend's own kernel serves all dense products.
  CudaLinear(Allocator& allocator, const DeviceLimits& limits, std::unique_ptr<CublasLt> cublas, DType act, LinearOptions options);

  void apply(const Tensor& out, const Tensor& x, const PackedWeight& weight, const Epilogue& epilogue, cudaStream_t stream);
  // What a sparse weight is packed as.
  ProductPath path_for(std::int64_t rows, std::int64_t cols, std::int64_t nnz) const;
  // Makes room, at the first large batch, for the largest weight noted to be expanded.
  void note_weight(const PackedWeight& weight);
  // Bytes that large batches will still take.
  std::int64_t pending_bytes() const;

 private:
  void sparse(const Tensor& out, const Tensor& x, const SparseTiles& weight, const Epilogue& epilogue, cudaStream_t stream);
  void expanded(const Tensor& out, const Tensor& x, const SparseTiles& weight, const Epilogue& epilogue, cudaStream_t stream);
  void bytes(const Tensor& out, const Tensor& x, const ByteTiles& weight, const Epilogue& epilogue, cudaStream_t stream);
  void dense(const Tensor& out, const Tensor& x, const void* weight, std::int64_t stride, const Epilogue& epilogue, cudaStream_t stream);
  bool by_library(const Tensor& out, const Tensor& x, const void* weight, std::int64_t stride, const Epilogue& epilogue,
                  cudaStream_t stream);
  // Whether the weight is better expanded for n tokens.
  bool is_expanded(const SparseTiles& weight, std::int64_t n);
  const SpmmConfig& spmm_config(const SparseTiles& weight, std::int64_t n, bool is_aligned);

  DeviceLimits limits_;
  std::unique_ptr<CublasLt> cublas_;
  DType act_;
  LinearOptions options_;
  // Plans by what they depend on: format, m, k, n, the largest record, alignment.
  std::map<std::tuple<TileFormat, std::int64_t, std::int64_t, std::int64_t, std::int64_t, bool>, SpmmConfig> configs_;
  // The least number of tokens for which a weight is expanded, by what that depends on: m, k, format, sparsity in per cent.
  std::map<std::tuple<std::int64_t, std::int64_t, TileFormat, int>, std::int64_t> expanded_from_;
  Workspace partials_, tickets_, packed_x_, expansion_, sums_, library_space_;
  ByteLinear bytes_;
  std::size_t expansion_bytes_ = 0;
  std::size_t expansion_held_ = 0;
};

}  // namespace gossamer::cuda
