// Scaled weights as 16-bit ones, for devices that multiply no others.
#pragma once

#include "core/thread_pool.h"
#include "sparse/sparse_weight.h"

namespace gossamer {

// The same mask; each value times its scale, rounded to dtype (f16 or bf16). weight: of scaled values, validated. Throws InvalidArgument
// where a number does not fit dtype. Uses all threads of the pool.
OwnedSparseWeight dequantize(const SparseWeight& weight, DType dtype, Allocator& allocator, ThreadPool& pool);
OwnedTensor dequantize(const ScaledMatrix& matrix, DType dtype, Allocator& allocator, ThreadPool& pool);

// A matrix of 8-bit values as a sparse weight that keeps everything, zeros too: the full mask costs one bit a weight. One scale a row.
OwnedSparseWeight with_full_mask(const ScaledMatrix& matrix, Allocator& allocator, ThreadPool& pool);

}  // namespace gossamer
