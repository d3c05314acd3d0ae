#include "cuda_weight.h"

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstring>

#include "core/error.h"
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

SparseTiles::SparseTiles(const SparseWeight& weight, DType dtype, Allocator& allocator, ThreadPool& pool) {
  HostAllocator host;
  SparseWeight stored = weight;
  OwnedTensor converted;
  if (weight.dtype() != dtype) {
    converted = OwnedTensor(host, dtype, {weight.nnz()});
    convert(converted.view, weight.values);
    stored.values = converted.view;
  }
  const OwnedTiledWeight packed = pack_tiles(stored, TileFormat::bitmap, host, pool);
  view_ = packed.view;
  data_ = Buffer(allocator, static_cast<std::size_t>(packed.view.data.nbytes()));
  offsets_ = Buffer(allocator, static_cast<std::size_t>(packed.view.offsets.nbytes()));
  view_.data = data_.view(DType::u8, {packed.view.data.numel()});
  view_.offsets = offsets_.view(DType::i32, {packed.view.offsets.numel()});
  upload(view_.data, packed.view.data);
  upload(view_.offsets, packed.view.offsets);
}

}  // namespace gossamer::cuda
