#include "byte_weight.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "core/error.h"
#include "launch/random_bytes.h"
#include "status.h"

namespace gossamer::cuda {
namespace {

constexpr std::int64_t kMostCols = 131072;  // of sums of 8-bit products

}  // namespace

bool ByteTiles::holds(DType dtype, std::int64_t group, std::int64_t cols) {
  return (dtype == DType::i8 || dtype == DType::e4m3) && group == cols && cols <= kMostCols;
}

ByteTiles::ByteTiles(const SparseWeight& weight, Allocator& allocator, ThreadPool& pool) {
  HostAllocator host;
  const OwnedTiledWeight packed = pack_tiles(weight, TileFormat::bitmap, host, pool);
  view_ = packed.view;
  const auto upload = [&](const Tensor& from, Buffer& buffer) {
    buffer = Buffer(allocator, static_cast<std::size_t>(from.nbytes()));
    check_status(cudaMemcpy(buffer.data(), from.raw(), static_cast<std::size_t>(from.nbytes()), cudaMemcpyHostToDevice),
                 "upload of a weight (cudaMemcpy)");
    return buffer.view(from.dtype(), {from.numel()});
  };
  view_.data = upload(packed.view.data, data_);
  view_.offsets = upload(packed.view.offsets, offsets_);
  view_.scales = upload(packed.view.scales, scales_);
}

ByteTiles::ByteTiles(const RandomWeight& weight, Allocator& allocator, cudaStream_t stream) {
  view_.rows = weight.rows;
  view_.cols = weight.cols;
  view_.dtype = weight.dtype;
  const std::int64_t records = view_.num_records();
  const std::size_t offset_bytes = static_cast<std::size_t>(records + 1) * sizeof(std::int32_t);
  offsets_ = Buffer(allocator, offset_bytes);
  view_.offsets = offsets_.view(DType::i32, {records + 1});
  scales_ = Buffer(allocator, static_cast<std::size_t>(weight.rows) * sizeof(float));
  view_.scales = scales_.view(DType::f32, {weight.rows});
  RandomParams params;
  params.rows = weight.rows;
  params.cols = weight.cols;
  params.seed = weight.seed;
  params.threshold = weight.threshold();
  params.row_blocks = view_.row_blocks();
  params.records = view_.records_per_row_block();
  params.units = view_.offsets.data<std::int32_t>();
  check_status(launch_random_bytes_count(params, stream), "a random weight (counting kernel)");

  std::vector<std::int32_t> offsets(static_cast<std::size_t>(records + 1));
  check_status(cudaMemcpyAsync(offsets.data(), offsets_.data(), offset_bytes, cudaMemcpyDeviceToHost, stream),
               "a random weight (download)");
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
  view_.nnz = units * kRecordUnit - 256 * records;  // up to the records' padding
  check_status(cudaMemcpyAsync(offsets_.data(), offsets.data(), offset_bytes, cudaMemcpyHostToDevice, stream), "a random weight (upload)");
  const std::vector<float> scales(static_cast<std::size_t>(weight.rows), weight.byte_scale());
  check_status(cudaMemcpyAsync(scales_.data(), scales.data(), scales.size() * sizeof(float), cudaMemcpyHostToDevice, stream),
               "a random weight (upload)");
  params.offsets = view_.offsets.data<std::int32_t>();
  params.data = view_.data.data<std::uint8_t>();
  check_status(launch_random_bytes_records(params, weight.dtype, stream), "a random weight (kernel)");
  check_status(cudaStreamSynchronize(stream), "a random weight");  // the host's offsets and scales go
}

}  // namespace gossamer::cuda
