#include "byte_linear.h"

#include "launch/expand_bytes.h"
#include "launch/spmm_bytes.h"
#include "status.h"

namespace gossamer::cuda {
namespace {

const std::uint32_t* offsets_of(const TiledWeight& w) {
  return reinterpret_cast<const std::uint32_t*>(w.offsets.data<const std::int32_t>());
}

}  // namespace

ByteLinear::ByteLinear(Allocator& allocator, const DeviceLimits& limits, DType act, EightBit eight_bit)
    : limits_(limits),
      act_(act),
      eight_bit_(eight_bit),
      partials_(allocator),
      tickets_(allocator),
      packed_x_(allocator),
      token_scales_(allocator) {}

const BytePlan& ByteLinear::plan(const TiledWeight& w, std::int64_t n, bool is_aligned) {
  const auto [found, is_new] = plans_.try_emplace({w.rows, w.cols, n, w.max_record_bytes, w.dtype, is_aligned});
  if (is_new) {
    const ByteProduct product = w.dtype == DType::e4m3                ? ByteProduct::e4m3_f16
                                : eight_bit_ == EightBit::activations ? ByteProduct::i8_i8
                                                                      : ByteProduct::i8_f16;
    found->second =
        plan_spmm_bytes({w.format, w.rows, w.cols, n, w.max_record_bytes, is_aligned, {}}, product, act_ == DType::bf16, limits_);
  }
  return found->second;
}

void ByteLinear::apply(const Tensor& out, const Tensor& x, const ByteTiles& weight, const Epilogue& epilogue, cudaStream_t stream) {
  const TiledWeight& w = weight.view();
  const bool is_aligned = reinterpret_cast<std::uintptr_t>(x.raw()) % 16 == 0 && x.stride(0) % 8 == 0 && w.cols % 8 == 0;
  const BytePlan& plan = this->plan(w, x.size(0), is_aligned);
  const SpmmConfig& config = plan.config;
  SpmmBytesParams params;
  params.row_scales = w.scales.data<const float>();
  if (plan.scales_x) {
    params.token_scales = static_cast<float*>(token_scales_.reserve(static_cast<std::size_t>(plan.token_scale_floats) * sizeof(float)));
  }
  SpmmParams& base = params.base;
  bool is_new = false;
  base.partials = static_cast<float*>(partials_.reserve(static_cast<std::size_t>(config.partial_floats) * sizeof(float)));
  base.tickets = static_cast<std::uint32_t*>(tickets_.reserve(static_cast<std::size_t>(config.tickets) * sizeof(std::uint32_t), &is_new));
  if (is_new) check_status(cudaMemsetAsync(base.tickets, 0, tickets_.bytes(), stream), "linear (cudaMemsetAsync)");
  if (config.packs_x) base.packed_x = static_cast<std::uint8_t*>(packed_x_.reserve(static_cast<std::size_t>(config.packed_x_bytes)));
  base.data = w.data.data<const std::uint8_t>();
  base.offsets = offsets_of(w);
  base.x = x.raw();
  base.out = out.raw();
  base.bias = epilogue.bias.raw();
  base.residual = epilogue.residual.raw();
  base.ldx = x.stride(0);
  base.ldo = out.stride(0);
  base.ldr = epilogue.residual.defined() ? epilogue.residual.stride(0) : 0;
  base.m = static_cast<std::int32_t>(w.rows);
  base.k = static_cast<std::int32_t>(w.cols);
  base.n = static_cast<std::int32_t>(x.size(0));
  base.row_blocks = static_cast<std::int32_t>(w.row_blocks());
  base.records = static_cast<std::int32_t>(w.records_per_row_block());
  base.slot_bytes = static_cast<std::uint32_t>(config.slot_bytes);
  base.x_is_aligned = is_aligned;
  base.activation = static_cast<SpmmActivation>(epilogue.activation);
  base.out_type = out.dtype() == DType::f32 ? SpmmOut::f32 : SpmmOut::same;
  check_status(launch_spmm_bytes(params, plan, act_ == DType::bf16, stream), "linear (kernel for 8-bit weights)");
}

void ByteLinear::expand(void* out, std::int64_t ldw, const ByteTiles& weight, cudaStream_t stream) {
  const TiledWeight& w = weight.view();
  ExpandBytesParams params;
  params.row_scales = w.scales.data<const float>();
  params.base.data = w.data.data<const std::uint8_t>();
  params.base.offsets = offsets_of(w);
  params.base.out = out;
  params.base.ldw = ldw;
  params.base.m = static_cast<std::int32_t>(w.rows);
  params.base.row_blocks = static_cast<std::int32_t>(w.row_blocks());
  params.base.records = static_cast<std::int32_t>(w.records_per_row_block());
  params.base.slot_bytes = static_cast<std::uint32_t>(w.max_record_bytes + 16);
  check_status(launch_expand_bytes(params, w.dtype == DType::e4m3, act_ == DType::bf16, limits_.num_sms, stream),
               "linear (expansion of an 8-bit weight)");
}

}  // namespace gossamer::cuda
