#include "cuda_linear.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "launch/dense.h"
#include "launch/expand.h"
#include "launch/rowwise.h"
#include "launch/spmm.h"
#include "status.h"

namespace gossamer::cuda {
namespace {

// Smaller weights stay sparse: the cost table knows nothing about them, and any path takes a few microseconds.
constexpr std::int64_t kLeastPlanned = std::int64_t{1} << 18;
constexpr std::int64_t kMostTokens = 4096;  // of a batch that may still run sparse
// Up to this many tokens the backend's own dense kernel reads the weight as fast as the library's.
constexpr std::int64_t kMaxOwnTokens = 1;

static_assert(static_cast<int>(Act::silu) == static_cast<int>(Activation::silu) &&
              static_cast<int>(SpmmActivation::silu) == static_cast<int>(Activation::silu));

std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }
bool is_aligned_for_vectors(const Tensor& x) { return reinterpret_cast<std::uintptr_t>(x.raw()) % 16 == 0 && x.stride(0) % 8 == 0; }

}  // namespace

CudaLinear::CudaLinear(Allocator& allocator, const DeviceLimits& limits, std::unique_ptr<CublasLt> cublas, DType act, LinearOptions options)
    : limits_(limits),
      cublas_(std::move(cublas)),
      act_(act),
      options_(std::move(options)),
      partials_(allocator),
      tickets_(allocator),
      packed_x_(allocator),
      expansion_(allocator),
      sums_(allocator),
      library_space_(allocator),
      bytes_(allocator, limits, act, options_.eight_bit) {
  if (cublas_ != nullptr) library_space_.reserve(CublasLt::kWorkspaceBytes);
}

ProductPath CudaLinear::path_for(std::int64_t rows, std::int64_t cols, std::int64_t nnz) const {
  if (rows * cols < kLeastPlanned) return ProductPath::bitmap;
  return choose_path(options_.table, rows, cols, 1 - static_cast<double>(nnz) / static_cast<double>(rows * cols));
}

bool CudaLinear::is_expanded(const SparseTiles& weight, std::int64_t n) {
  if (options_.batch_invariant) return false;
  const TiledWeight& w = weight.view();
  const double sparsity = std::clamp(1 - static_cast<double>(w.nnz) / static_cast<double>(w.rows * w.cols), 0.0, 1.0);
  const auto [found, is_new] = expanded_from_.try_emplace({w.rows, w.cols, w.format, static_cast<int>(100 * sparsity)});
  if (is_new) {
    const ProductPath path = path_of(w.format);
    std::int64_t from = 17;  // the weight was packed for batches up to 16
    while (from < kMostTokens && !expands(options_.table, path, w.rows, w.cols, from, sparsity)) from += 16;
    found->second = from;
  }
  return n >= found->second;
}

void CudaLinear::note_weight(const PackedWeight& weight) {
  expansion_bytes_ = std::max(expansion_bytes_, static_cast<std::size_t>(weight.rows() * round_up(weight.cols(), 8) * 2));
}

std::int64_t CudaLinear::pending_bytes() const {
  return expansion_bytes_ > expansion_held_ ? static_cast<std::int64_t>(expansion_bytes_ - expansion_held_) : 0;
}

void CudaLinear::apply(const Tensor& out, const Tensor& x, const PackedWeight& packed, const Epilogue& epilogue, cudaStream_t stream) {
  if (const auto* tiles = dynamic_cast<const SparseTiles*>(&packed); tiles != nullptr) {
    if (!is_expanded(*tiles, x.size(0))) {
      sparse(out, x, *tiles, epilogue, stream);
    } else {
      expanded(out, x, *tiles, epilogue, stream);
    }
    return;
  }
  if (const auto* tiles = dynamic_cast<const ByteTiles*>(&packed); tiles != nullptr) {
    bytes(out, x, *tiles, epilogue, stream);
    return;
  }
  const auto* weight = dynamic_cast<const DenseWeight*>(&packed);
  if (weight == nullptr) {
    throw InvalidArgument("linear: the weight (" + packed.format() + ") was packed by another backend; pack it with these Ops");
  }
  dense(out, x, weight->data(), weight->stride(), epilogue, stream);
}

const SpmmConfig& CudaLinear::spmm_config(const SparseTiles& weight, std::int64_t n, bool is_aligned) {
  const TiledWeight& w = weight.view();
  const auto [found, is_new] = configs_.try_emplace({w.format, w.rows, w.cols, n, w.max_record_bytes, is_aligned});
  if (is_new) {
    found->second = plan_spmm({w.format, w.rows, w.cols, n, w.max_record_bytes, is_aligned, {}, options_.batch_invariant}, limits_);
  }
  return found->second;
}

void CudaLinear::sparse(const Tensor& out, const Tensor& x, const SparseTiles& weight, const Epilogue& epilogue, cudaStream_t stream) {
  const TiledWeight& w = weight.view();
  const bool is_aligned = is_aligned_for_vectors(x) && w.cols % 8 == 0;
  const SpmmConfig& config = spmm_config(weight, x.size(0), is_aligned);
  bool is_new = false;
  SpmmParams params;
  params.partials = static_cast<float*>(partials_.reserve(static_cast<std::size_t>(config.partial_floats) * sizeof(float)));
  const std::size_t ticket_bytes = static_cast<std::size_t>(config.tickets) * sizeof(std::uint32_t);
  params.tickets = static_cast<std::uint32_t*>(tickets_.reserve(ticket_bytes, &is_new));
  if (is_new) check_status(cudaMemsetAsync(params.tickets, 0, tickets_.bytes(), stream), "linear (cudaMemsetAsync)");
  if (config.packs_x) params.packed_x = static_cast<std::uint8_t*>(packed_x_.reserve(static_cast<std::size_t>(config.packed_x_bytes)));
  params.data = w.data.data<const std::uint8_t>();
  params.offsets = reinterpret_cast<const std::uint32_t*>(w.offsets.data<const std::int32_t>());
  params.x = x.raw();
  params.out = out.raw();
  params.bias = epilogue.bias.raw();
  params.residual = epilogue.residual.raw();
  params.ldx = x.stride(0);
  params.ldo = out.stride(0);
  params.ldr = epilogue.residual.defined() ? epilogue.residual.stride(0) : 0;
  params.m = static_cast<std::int32_t>(w.rows);
  params.k = static_cast<std::int32_t>(w.cols);
  params.n = static_cast<std::int32_t>(x.size(0));
  params.row_blocks = static_cast<std::int32_t>(w.row_blocks());
  params.records = static_cast<std::int32_t>(w.records_per_row_block());
  params.slot_bytes = static_cast<std::uint32_t>(config.slot_bytes);
  params.x_is_aligned = is_aligned;
  params.activation = static_cast<SpmmActivation>(epilogue.activation);
  params.out_type = out.dtype() == DType::f32 ? SpmmOut::f32 : SpmmOut::same;
  check_status(launch_spmm(params, config, w.format, act_ == DType::bf16, stream), "linear (sparse kernel)");
}

void CudaLinear::expanded(const Tensor& out, const Tensor& x, const SparseTiles& weight, const Epilogue& epilogue, cudaStream_t stream) {
  const TiledWeight& w = weight.view();
  ExpandParams params;
  params.ldw = round_up(w.cols, 8);
  params.out = expansion_.reserve(std::max(expansion_bytes_, static_cast<std::size_t>(w.rows * params.ldw * 2)));
  expansion_held_ = expansion_.bytes();
  params.data = w.data.data<const std::uint8_t>();
  params.offsets = reinterpret_cast<const std::uint32_t*>(w.offsets.data<const std::int32_t>());
  params.m = static_cast<std::int32_t>(w.rows);
  params.row_blocks = static_cast<std::int32_t>(w.row_blocks());
  params.records = static_cast<std::int32_t>(w.records_per_row_block());
  params.slot_bytes = static_cast<std::uint32_t>(w.max_record_bytes + 16);
  check_status(launch_expand(params, w.format, limits_.num_sms, stream), "linear (expansion kernel)");
  dense(out, x, params.out, params.ldw, epilogue, stream);
}

void CudaLinear::bytes(const Tensor& out, const Tensor& x, const ByteTiles& weight, const Epilogue& epilogue, cudaStream_t stream) {
  if (x.size(0) <= ByteLinear::kMostTokens) {
    bytes_.apply(out, x, weight, epilogue, stream);
    return;
  }
  const std::int64_t ldw = round_up(weight.cols(), 8);
  void* halves = expansion_.reserve(std::max(expansion_bytes_, static_cast<std::size_t>(weight.rows() * ldw * 2)));
  expansion_held_ = expansion_.bytes();
  bytes_.expand(halves, ldw, weight, stream);
  dense(out, x, halves, ldw, epilogue, stream);
}

void CudaLinear::dense(const Tensor& out, const Tensor& x, const void* weight, std::int64_t stride, const Epilogue& epilogue,
                       cudaStream_t stream) {
  if (x.size(0) > kMaxOwnTokens && !options_.batch_invariant && by_library(out, x, weight, stride, epilogue, stream)) return;
  DenseParams params;
  params.overlaps = limits_.dependent_launch;
  params.weight = weight;
  params.x = x.raw();
  params.out = out.raw();
  params.bias = epilogue.bias.raw();
  params.residual = epilogue.residual.raw();
  params.ldw = stride;
  params.ldx = x.stride(0);
  params.ldo = out.stride(0);
  params.ldr = epilogue.residual.defined() ? epilogue.residual.stride(0) : 0;
  params.m = out.size(1);
  params.k = x.size(1);
  params.n = x.size(0);
  params.act = static_cast<Act>(epilogue.activation);
  check_status(launch_dense(params, act_, out.dtype(), stream), "linear (dense kernel)");
}

// One rounding of the fp32 sum: what the library cannot fuse is added to sums in fp32. Nor can it a bias where rows of x lie askew: its
// kernels for them round the sum before they add it.
bool CudaLinear::by_library(const Tensor& out, const Tensor& x, const void* weight, std::int64_t stride, const Epilogue& epilogue,
                            cudaStream_t stream) {
  if (cublas_ == nullptr) return false;
  const Activation activation = epilogue.activation;
  const bool has_bias = epilogue.bias.defined(), has_residual = epilogue.residual.defined();
  const bool is_fused = (activation == Activation::none || (activation == Activation::relu && !has_residual)) &&
                        !(has_bias && (out.dtype() == DType::f32 || !is_aligned_for_vectors(x)));
  LtProblem problem;
  problem.weight = weight;
  problem.x = x.raw();
  problem.m = out.size(1);
  problem.k = x.size(1);
  problem.n = x.size(0);
  problem.ldw = stride;
  problem.ldx = x.stride(0);
  problem.act = act_;
  if (is_fused) {
    problem.out = out.raw();
    problem.ldo = out.stride(0);
    problem.out_dtype = out.dtype();
    problem.bias = epilogue.bias.raw();
    problem.residual = epilogue.residual.raw();
    problem.ldr = has_residual ? epilogue.residual.stride(0) : 0;
    problem.relu = activation == Activation::relu;
    return cublas_->run(problem, library_space_.reserve(CublasLt::kWorkspaceBytes), stream);
  }
  problem.out = sums_.reserve(static_cast<std::size_t>(problem.n * problem.m) * sizeof(float));
  problem.ldo = problem.m;
  problem.out_dtype = DType::f32;
  if (!cublas_->run(problem, library_space_.reserve(CublasLt::kWorkspaceBytes), stream)) return false;
  EpilogueParams params;
  params.overlaps = limits_.dependent_launch;
  params.out = out.raw();
  params.sums = static_cast<const float*>(problem.out);
  params.bias = epilogue.bias.raw();
  params.residual = epilogue.residual.raw();
  params.n = problem.n;
  params.size = problem.m;
  params.out_stride = out.stride(0);
  params.residual_stride = has_residual ? epilogue.residual.stride(0) : 0;
  params.act = static_cast<Act>(activation);
  check_status(launch_epilogue(params, act_, out.dtype(), stream), "linear (epilogue kernel)");
  return true;
}

}  // namespace gossamer::cuda
