#include "cuda_weight.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "launch/random.h"
#include "status.h"

namespace gossamer::cuda {
namespace {

constexpr std::int64_t kRowElements = 8;  // rows are padded to 16 bytes
constexpr std::int64_t kPackGrain = 64;   // rows per chunk

std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

void upload(const Tensor& device, const Tensor& host) {
  check_status(cudaMemcpy(device.raw(), host.raw(), static_cast<std::size_t>(host.nbytes()), cudaMemcpyHostToDevice),
               "upload of a weight (cudaMemcpy)");
}

// f16 ends at 65504: a finite weight beyond it would become infinite.
void convert(const Tensor& out, const Tensor& in) {
  visit_floating(in.dtype(), [&](auto in_tag) {
    using In = typename decltype(in_tag)::type;
    visit_floating(out.dtype(), [&](auto out_tag) {
      using Out = typename decltype(out_tag)::type;
      const In* from = in.data<const In>();
      Out* to = out.data<Out>();
      for (std::int64_t i = 0; i < in.numel(); ++i) {
        const float value = to_float(from[i]);
        to[i] = from_float<Out>(value);
        require(std::isfinite(to_float(to[i])) || !std::isfinite(value),
                "a weight of " + std::to_string(value) + " does not fit float16; use dtype='bfloat16'");
      }
    });
  });
}

RandomParams random_params(const RandomWeight& weight) {
  RandomParams params;
  params.rows = weight.rows;
  params.cols = weight.cols;
  params.seed = weight.seed;
  params.threshold = weight.threshold();
  params.scale = weight.scale;
  return params;
}

}  // namespace

DenseWeight::DenseWeight(const Tensor& dense, DType dtype, Allocator& allocator, ThreadPool& pool)
    : rows_(dense.size(0)), cols_(dense.size(1)), values_(allocator, dtype, {rows_, round_up(cols_, kRowElements)}) {
  HostAllocator host;
  const std::int64_t width = values_.view.size(1);
  if (dense.dtype() == dtype && width == cols_ && dense.is_contiguous()) {
    upload(values_.view, dense);
    return;
  }
  const OwnedTensor padded(host, dtype, {rows_, width});
  pool.parallel_for(rows_, kPackGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const Tensor to = padded.view.select(0, row), from = dense.select(0, row);
      convert(to.slice(0, 0, cols_), from);
      std::memset(static_cast<std::byte*>(to.raw()) + cols_ * 2, 0, static_cast<std::size_t>(width - cols_) * 2);
    }
  });
  upload(values_.view, padded.view);
}

DenseWeight::DenseWeight(const RandomWeight& weight, Allocator& allocator, cudaStream_t stream)
    : rows_(weight.rows), cols_(weight.cols), values_(allocator, weight.dtype, {rows_, round_up(cols_, kRowElements)}) {
  RandomParams params = random_params(weight);
  params.dense = values_.view.raw();
  params.ld = stride();
  check_status(launch_random_dense(params, weight.dtype, stream), "a random weight (kernel)");
}

SparseTiles::SparseTiles(const SparseWeight& weight, TileFormat format, DType dtype, Allocator& allocator, ThreadPool& pool) {
  HostAllocator host;
  SparseWeight stored = weight;
  OwnedTensor converted;
  if (weight.dtype() != dtype) {
    converted = OwnedTensor(host, dtype, {weight.nnz()});
    convert(converted.view, weight.values);
    stored.values = converted.view;
  }
  const OwnedTiledWeight packed = pack_tiles(stored, format, host, pool);
  view_ = packed.view;
  data_ = Buffer(allocator, static_cast<std::size_t>(packed.view.data.nbytes()));
  offsets_ = Buffer(allocator, static_cast<std::size_t>(packed.view.offsets.nbytes()));
  view_.data = data_.view(DType::u8, {packed.view.data.numel()});
  view_.offsets = offsets_.view(DType::i32, {packed.view.offsets.numel()});
  upload(view_.data, packed.view.data);
  upload(view_.offsets, packed.view.offsets);
}

SparseTiles::SparseTiles(const RandomWeight& weight, Allocator& allocator, cudaStream_t stream) {
  view_.format = TileFormat::bitmap;
  view_.rows = weight.rows;
  view_.cols = weight.cols;
  view_.dtype = weight.dtype;
  const std::int64_t records = view_.num_records();
  offsets_ = Buffer(allocator, static_cast<std::size_t>(records + 1) * sizeof(std::int32_t));
  view_.offsets = offsets_.view(DType::i32, {records + 1});
  RandomParams params = random_params(weight);
  params.row_blocks = view_.row_blocks();
  params.records = view_.records_per_row_block();
  params.units = view_.offsets.data<std::int32_t>();
  check_status(launch_random_count(params, stream), "a random weight (counting kernel)");

  std::vector<std::int32_t> offsets(static_cast<std::size_t>(records + 1));
  const std::size_t bytes = offsets.size() * sizeof(std::int32_t);
  check_status(cudaMemcpyAsync(offsets.data(), offsets_.data(), bytes, cudaMemcpyDeviceToHost, stream), "a random weight (download)");
  check_status(cudaStreamSynchronize(stream), "a random weight");
  std::int64_t units = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(records); ++i) {
    const std::int64_t own = offsets[i];
    offsets[i] = static_cast<std::int32_t>(units);
    units += own;
    view_.max_record_bytes = std::max(view_.max_record_bytes, own * kRecordUnit);
  }
  check(units <= std::numeric_limits<std::int32_t>::max(), "a weight's records fit 32-bit offsets");
  offsets.back() = static_cast<std::int32_t>(units);
  data_ = Buffer(allocator, static_cast<std::size_t>(units * kRecordUnit));
  view_.data = data_.view(DType::u8, {units * kRecordUnit});
  view_.nnz = (units * kRecordUnit - 256 * records) / 2;  // up to the records' padding
  check_status(cudaMemcpyAsync(offsets_.data(), offsets.data(), bytes, cudaMemcpyHostToDevice, stream), "a random weight (upload)");
  params.offsets = view_.offsets.data<std::int32_t>();
  params.data = view_.data.data<std::uint8_t>();
  check_status(launch_random_records(params, weight.dtype, stream), "a random weight (kernel)");
  check_status(cudaStreamSynchronize(stream), "a random weight");  // the host's offsets go
}

}  // namespace gossamer::cuda
