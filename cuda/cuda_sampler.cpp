#include "cuda_sampler.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "launch/sample.h"
#include "status.h"

namespace gossamer::cuda {
namespace {

SampleRowParams row_params(const SampleRow& row) {
  SampleRowParams p;
  p.is_greedy = row.temperature == 0.0F ? 1 : 0;
  p.inverse_temperature = p.is_greedy != 0 ? 1.0F : std::min(1.0F / row.temperature, std::numeric_limits<float>::max());
  p.top_p = row.top_p;
  p.min_p = row.min_p;
  p.repetition_penalty = row.repetition_penalty;
  p.presence_penalty = row.presence_penalty;
  p.frequency_penalty = row.frequency_penalty;
  p.uniform = philox_uniform(row.seed, row.sample_index, row.position);
  p.top_k = row.top_k;
  p.num_logprobs = row.num_logprobs;
  p.target = row.target;
  return p;
}

template <typename T>
void copy_out(std::span<T> to, const std::byte*& from) {
  std::memcpy(to.data(), from, to.size_bytes());
  from += to.size_bytes();
}

}  // namespace

CudaSampler::Slot::Slot(Allocator& device, Allocator& pinned) : device_in(device), device_out(device), host_in(pinned), host_out(pinned) {
  check_status(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "cudaEventCreate");
}

CudaSampler::Slot::~Slot() { cudaEventDestroy(done); }

void CudaSampler::begin(const Tensor& logits, const SampleBatch& batch, const SampleResult& result, const Tensor& tokens,
                        cudaStream_t stream) {
  check(num_open_ < slots_.size(), "more draws are open than there are slots");
  Slot& slot = slots_[(oldest_ + num_open_) % slots_.size()];
  const std::size_t rows = batch.rows.size(), adjustments = batch.adjustments.size();
  const std::size_t row_bytes = rows * sizeof(SampleRowParams), adjustment_bytes = adjustments * sizeof(AdjustmentParams);
  auto* host = static_cast<std::byte*>(slot.host_in.reserve(row_bytes + adjustment_bytes));
  auto* row_list = reinterpret_cast<SampleRowParams*>(host);
  auto* adjustment_list = reinterpret_cast<AdjustmentParams*>(host + row_bytes);
  for (std::size_t r = 0; r < rows; ++r) row_list[r] = row_params(batch.rows[r]);
  for (std::size_t i = 0; i < adjustments; ++i) {
    const TokenAdjustment& a = batch.adjustments[i];
    SampleRowParams& row = row_list[a.row];
    if (row.num_adjustments++ == 0) row.first_adjustment = static_cast<std::int32_t>(i);
    adjustment_list[i] = {a.token, a.output_count, a.bias, a.seen ? 1 : 0};
  }
  auto* device = static_cast<std::byte*>(slot.device_in.reserve(row_bytes + adjustment_bytes + adjustments * sizeof(float)));
  check_status(cudaMemcpyAsync(device, host, row_bytes + adjustment_bytes, cudaMemcpyHostToDevice, stream), "sample (upload)");

  const std::size_t top = result.top_tokens.size();
  const std::size_t out_bytes = (3 * rows + 2 * top) * 4;
  auto* out = static_cast<std::int32_t*>(slot.device_out.reserve(out_bytes));
  SampleParams params;
  params.logits = logits.data<float>();
  params.rows = reinterpret_cast<const SampleRowParams*>(device);
  params.adjustments = reinterpret_cast<const AdjustmentParams*>(device + row_bytes);
  params.saved = reinterpret_cast<float*>(device + row_bytes + adjustment_bytes);
  params.tokens = out;
  params.logprobs = reinterpret_cast<float*>(out + rows);
  params.ranks = out + 2 * rows;
  params.top_tokens = out + 3 * rows;
  params.top_logprobs = reinterpret_cast<float*>(out + 3 * rows + top);
  params.stride = logits.stride(0);
  params.num_rows = static_cast<std::int32_t>(rows);
  params.vocab = static_cast<std::int32_t>(logits.size(1));
  params.max_logprobs = result.max_logprobs;
  check_status(launch_sample(params, stream), "sample (kernel)");

  if (tokens.defined()) {
    check_status(cudaMemcpyAsync(tokens.raw(), out, rows * 4, cudaMemcpyDeviceToDevice, stream), "sample (tokens)");
  }
  void* back = slot.host_out.reserve(out_bytes);
  check_status(cudaMemcpyAsync(back, out, out_bytes, cudaMemcpyDeviceToHost, stream), "sample (download)");
  check_status(cudaEventRecord(slot.done, stream), "sample (cudaEventRecord)");
  slot.result = result;
  ++num_open_;
}

void CudaSampler::finish() {
  check(num_open_ > 0, "no draw is open");
  Slot& slot = slots_[oldest_];
  oldest_ = (oldest_ + 1) % slots_.size();
  --num_open_;
  check_status(cudaEventSynchronize(slot.done), "the GPU's work (cudaEventSynchronize)");
  const SampleResult& result = slot.result;
  const auto* next = static_cast<const std::byte*>(slot.host_out.reserve(0));
  copy_out(result.tokens, next);
  copy_out(result.logprobs, next);
  copy_out(result.ranks, next);
  copy_out(result.top_tokens, next);
  copy_out(result.top_logprobs, next);
}

}  // namespace gossamer::cuda
