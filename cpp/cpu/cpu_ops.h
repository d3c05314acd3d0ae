// The two CPU backends: the reference (plain loops, fp32, the oracle of every test) and the vectorised one.
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "core/thread_pool.h"
#include "ops/ops.h"

namespace gossamer {

// Instruction sets with a kernel set of their own, weakest first. Chosen at run time; a weaker one can be forced.
enum class CpuIsa { portable, avx2, avx512, avx512_bf16 };
std::string_view name_of(CpuIsa isa);  // "portable", "avx2", "avx512", "avx512-bf16"
std::optional<CpuIsa> parse_cpu_isa(std::string_view name);
CpuIsa best_cpu_isa();
std::vector<CpuIsa> available_cpu_isas();

struct CpuOptions {
  int num_threads = 0;        // 0 = available_cores()
  std::optional<CpuIsa> isa;  // default: best_cpu_isa()
  // bf16: products of bf16 weights round their inputs to bf16, which the native dot product takes where there is one; sums, and all
  // activations in memory, stay f32.
  DType product_dtype = DType::f32;
};

// Activations are f32. allocator: null = an own HostAllocator; otherwise it outlives the Ops.
std::unique_ptr<Ops> make_cpu_ops(const CpuOptions& options = {}, Allocator* allocator = nullptr);
std::unique_ptr<Ops> make_reference_ops(Allocator* allocator = nullptr);

}  // namespace gossamer
