#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "rivals.h"

#if __has_include(<cusparse.h>)
#include <cusparse.h>
#endif

namespace gossamer::bench {
namespace {

void blas_check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw std::runtime_error(std::string(what) + ": cublas status " + std::to_string(status));
}

// Any bits are finite numbers in e4m3 but 0x7f and 0xff: halves are drawn uniformly, bytes from the small numbers.
__global__ void fill_random(std::uint16_t* out, std::size_t count, cudaDataType_t type) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count; i += std::size_t{gridDim.x} * blockDim.x) {
    std::uint32_t h = static_cast<std::uint32_t>(i) * 2654435761U;
    h ^= h >> 15;
    const float v = static_cast<float>(h & 0xffff) / 32768.0F - 1.0F;
    out[i] = type == CUDA_R_16BF  ? __bfloat16_as_ushort(__float2bfloat16(v))
             : type == CUDA_R_16F ? __half_as_ushort(__float2half(v))
                                  : static_cast<std::uint16_t>(h & 0xbfbf);
  }
}

struct Matmul {
  Shape s;
  std::int64_t n;
  cudaDataType_t in, out;
};

std::size_t size_of(cudaDataType_t type) { return type == CUDA_R_8F_E4M3 ? 1 : 2; }

double time_matmul(const Matmul& p, const std::function<const void*(int, cudaStream_t)>& before) {
  const std::size_t elements = static_cast<std::size_t>(p.s.m) * static_cast<std::size_t>(p.s.k), bytes = elements * size_of(p.in);
  const int copies = before ? 1 : static_cast<int>(std::clamp<std::size_t>((std::size_t{256} << 20) / bytes + 1, 2, 64));
  DeviceMemory w(before ? 16 : bytes * static_cast<std::size_t>(copies)), x(static_cast<std::size_t>(p.n * p.s.k) * size_of(p.in)),
      c(static_cast<std::size_t>(2 * p.n * p.s.m)), workspace(64 << 20), scale(4);
  const float one = 1, zero = 0;
  cuda_check(cudaMemcpy(scale.as(), &one, 4, cudaMemcpyHostToDevice), "scale");
  if (!before) fill_random<<<1320, 512>>>(w.as<std::uint16_t>(), bytes / 2 * static_cast<std::size_t>(copies), p.in);
  fill_random<<<1320, 512>>>(x.as<std::uint16_t>(), static_cast<std::size_t>(p.n * p.s.k) * size_of(p.in) / 2, p.in);
  cublasLtHandle_t handle;
  blas_check(cublasLtCreate(&handle), "create");
  cublasLtMatmulDesc_t desc;
  blas_check(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "desc");
  const cublasOperation_t transpose = CUBLAS_OP_T;
  cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose);
  if (p.in == CUDA_R_8F_E4M3) {
    const void* pointer = scale.as();
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &pointer, sizeof pointer);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &pointer, sizeof pointer);
  }
  cublasLtMatrixLayout_t a_layout, b_layout, c_layout;
  cublasLtMatrixLayoutCreate(&a_layout, p.in, static_cast<std::uint64_t>(p.s.k), static_cast<std::uint64_t>(p.s.m), p.s.k);
  cublasLtMatrixLayoutCreate(&b_layout, p.in, static_cast<std::uint64_t>(p.s.k), static_cast<std::uint64_t>(p.n), p.s.k);
  cublasLtMatrixLayoutCreate(&c_layout, p.out, static_cast<std::uint64_t>(p.s.m), static_cast<std::uint64_t>(p.n), p.s.m);
  cublasLtMatmulPreference_t preference;
  cublasLtMatmulPreferenceCreate(&preference);
  const std::size_t workspace_bytes = 64 << 20;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes, sizeof workspace_bytes);
  cublasLtMatmulHeuristicResult_t results[16];
  int found = 0;
  if (cublasLtMatmulAlgoGetHeuristic(handle, desc, a_layout, b_layout, c_layout, c_layout, preference, 16, results, &found) !=
      CUBLAS_STATUS_SUCCESS) {
    found = 0;  // odd sizes: no dense rival
  }
  double best = 0;
  const double expected_us =
      std::max(static_cast<double>(bytes) / 2.5e6, 2.0 * static_cast<double>(elements) * static_cast<double>(p.n) / 6e8);
  for (int i = 0; i < found; ++i) {
    const auto call = [&](int copy, cudaStream_t stream) {
      const void* weight = before ? before(copy, stream) : w.as<std::uint8_t>() + bytes * static_cast<std::size_t>(copy);
      blas_check(cublasLtMatmul(handle, desc, &one, weight, a_layout, x.as(), b_layout, &zero, c.as(), c_layout, c.as(), c_layout,
                                &results[i].algo, workspace.as(), workspace_bytes, stream),
                 "matmul");
    };
    call(0, nullptr);
    cuda_check(cudaDeviceSynchronize(), "cublas");
    const double us = time_graph(call, copies, expected_us);
    best = best == 0 ? us : std::min(best, us);
  }
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatrixLayoutDestroy(a_layout);
  cublasLtMatrixLayoutDestroy(b_layout);
  cublasLtMatrixLayoutDestroy(c_layout);
  cublasLtMatmulDescDestroy(desc);
  cublasLtDestroy(handle);
  return best;
}

}  // namespace

double time_cublas(Shape s, std::int64_t n, bool bf16, const std::function<const void*(int, cudaStream_t)>& before) {
  const cudaDataType_t type = bf16 ? CUDA_R_16BF : CUDA_R_16F;
  return time_matmul({s, n, type, type}, before);
}

double time_cublas_fp8(Shape s, std::int64_t n) {
  if (n % 16 != 0 && n != 8) return 0;
  return time_matmul({s, n, CUDA_R_8F_E4M3, CUDA_R_16BF}, nullptr);
}

#if __has_include(<cusparse.h>)

double time_cusparse(const SparseWeight& weight, std::int64_t n) {
  const std::int64_t rows = weight.rows, cols = weight.cols, nnz = weight.nnz();
  const cudaDataType_t type = weight.dtype() == DType::bf16 ? CUDA_R_16BF : CUDA_R_16F;
  std::vector<std::int32_t> offsets(static_cast<std::size_t>(rows + 1)), columns;
  columns.reserve(static_cast<std::size_t>(nnz));
  for (std::int64_t r = 0; r < rows; ++r) {
    offsets[static_cast<std::size_t>(r)] = static_cast<std::int32_t>(columns.size());
    const std::uint8_t* mask = weight.mask.data<const std::uint8_t>() + r * weight.mask_stride();
    for (std::int64_t c = 0; c < cols; ++c) {
      if ((mask[c / 8] >> (c % 8) & 1) != 0) columns.push_back(static_cast<std::int32_t>(c));
    }
  }
  offsets.back() = static_cast<std::int32_t>(columns.size());
  DeviceMemory d_offsets(4 * offsets.size()), d_columns(4 * columns.size()), d_values(2 * static_cast<std::size_t>(nnz)),
      x(static_cast<std::size_t>(2 * n * cols)), out(static_cast<std::size_t>(2 * n * rows));
  cuda_check(cudaMemcpy(d_offsets.as(), offsets.data(), 4 * offsets.size(), cudaMemcpyHostToDevice), "csr");
  cuda_check(cudaMemcpy(d_columns.as(), columns.data(), 4 * columns.size(), cudaMemcpyHostToDevice), "csr");
  cuda_check(cudaMemcpy(d_values.as(), weight.values.raw(), 2 * static_cast<std::size_t>(nnz), cudaMemcpyHostToDevice), "csr");
  fill_random<<<1320, 512>>>(x.as<std::uint16_t>(), static_cast<std::size_t>(n * cols), type);
  cusparseHandle_t handle;
  if (cusparseCreate(&handle) != CUSPARSE_STATUS_SUCCESS) return 0;
  cusparseSpMatDescr_t a;
  cusparseDnMatDescr_t b, c;
  cusparseCreateCsr(&a, rows, cols, nnz, d_offsets.as(), d_columns.as(), d_values.as(), CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I,
                    CUSPARSE_INDEX_BASE_ZERO, type);
  cusparseCreateDnMat(&b, cols, n, cols, x.as(), type, CUSPARSE_ORDER_COL);
  cusparseCreateDnMat(&c, rows, n, rows, out.as(), type, CUSPARSE_ORDER_COL);
  const float one = 1, zero = 0;
  double best = 0;
  for (const cusparseSpMMAlg_t algorithm : {CUSPARSE_SPMM_CSR_ALG1, CUSPARSE_SPMM_CSR_ALG2, CUSPARSE_SPMM_CSR_ALG3}) {
    std::size_t bytes = 0;
    if (cusparseSpMM_bufferSize(handle, CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE, &one, a, b, &zero, c,
                                CUDA_R_32F, algorithm, &bytes) != CUSPARSE_STATUS_SUCCESS) {
      continue;
    }
    DeviceMemory buffer(bytes);
    cusparseSpMM_preprocess(handle, CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE, &one, a, b, &zero, c, CUDA_R_32F,
                            algorithm, buffer.as());
    const auto call = [&] {
      return cusparseSpMM(handle, CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE, &one, a, b, &zero, c, CUDA_R_32F,
                          algorithm, buffer.as());
    };
    if (call() != CUSPARSE_STATUS_SUCCESS || cudaDeviceSynchronize() != cudaSuccess) {
      cudaGetLastError();
      continue;
    }
    cudaEvent_t begin, end;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    cudaEventRecord(begin);
    for (int i = 0; i < 3; ++i) call();
    cudaEventRecord(end);
    cuda_check(cudaEventSynchronize(end), "cusparse");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    best = best == 0 ? 1e3 * ms / 3 : std::min(best, 1e3 * ms / 3.0);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
  }
  cusparseDestroySpMat(a);
  cusparseDestroyDnMat(b);
  cusparseDestroyDnMat(c);
  cusparseDestroy(handle);
  return best;
}

#else

double time_cusparse(const SparseWeight&, std::int64_t) { return 0; }

#endif

}  // namespace gossamer::bench
