#include "weight_packer.h"

#include <algorithm>

#include "launch/pack.h"
#include "status.h"

namespace gossamer::cuda {
namespace {

constexpr std::int64_t kSlotBytes = std::int64_t{32} << 20;

}  // namespace

WeightPacker::~WeightPacker() { release(); }

void WeightPacker::release() {
  scratch_.reset();
  for (Slot& slot : slots_) {
    if (slot.is_free != nullptr) cudaEventDestroy(slot.is_free);
    slot = {};
  }
}

void WeightPacker::upload(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  const auto total = static_cast<std::int64_t>(bytes);
  for (std::int64_t done = 0; done < total; done += kSlotBytes) {
    Slot& slot = slots_[next_];
    next_ = (next_ + 1) % slots_.size();
    if (slot.is_free == nullptr) {
      slot.memory = Buffer(pinned_, static_cast<std::size_t>(kSlotBytes));
      check_status(cudaEventCreateWithFlags(&slot.is_free, cudaEventDisableTiming), "cudaEventCreate");
    }
    check_status(cudaEventSynchronize(slot.is_free), "upload of a weight (cudaEventSynchronize)");
    const std::int64_t now = std::min(kSlotBytes, total - done);
    void* const staged = slot.memory.data();
    copy_bytes(staged, static_cast<const std::byte*>(from) + done, now, pool_);
    check_status(cudaMemcpyAsync(static_cast<std::byte*>(to) + done, staged, static_cast<std::size_t>(now), cudaMemcpyHostToDevice, stream),
                 "upload of a weight (cudaMemcpyAsync)");
    check_status(cudaEventRecord(slot.is_free, stream), "upload of a weight (cudaEventRecord)");
  }
}

std::unique_ptr<SparseTiles> WeightPacker::pack_bitmap(const SparseWeight& weight, cudaStream_t stream) {
  const TileSizes sizes = tile_sizes(weight, TileFormat::bitmap, pool_);
  TiledWeight view;
  view.format = TileFormat::bitmap;
  view.rows = weight.rows;
  view.cols = weight.cols;
  view.nnz = weight.nnz();
  view.dtype = weight.dtype();
  view.max_record_bytes = sizes.max_record_bytes;
  const std::int64_t bytes = std::int64_t{sizes.offsets.back()} * kRecordUnit;
  Buffer data(device_, static_cast<std::size_t>(bytes)), offsets(device_, sizes.offsets.size() * sizeof(std::int32_t));
  view.data = data.view(DType::u8, {bytes});
  view.offsets = offsets.view(DType::i32, {std::ssize(sizes.offsets)});

  if (!scratch_) scratch_.emplace(device_);
  PackParams params;
  const auto place = [&](Workspace& space, const Tensor& host) {
    void* const there = space.reserve(static_cast<std::size_t>(host.nbytes()));
    upload(there, host.raw(), static_cast<std::size_t>(host.nbytes()), stream);
    return there;
  };
  params.mask = static_cast<const std::uint8_t*>(place(scratch_->mask, weight.mask));
  params.values = static_cast<const std::uint16_t*>(place(scratch_->values, weight.values));
  params.row_offsets = static_cast<const std::int64_t*>(place(scratch_->row_offsets, weight.row_offsets));
  upload(offsets.data(), sizes.offsets.data(), sizes.offsets.size() * sizeof(std::int32_t), stream);
  params.before =
      static_cast<std::int32_t*>(scratch_->before.reserve(static_cast<std::size_t>(view.num_records()) * 32 * sizeof(std::int32_t)));
  params.offsets = view.offsets.data<const std::int32_t>();
  params.data = view.data.data<std::uint8_t>();
  params.rows = weight.rows;
  params.mask_stride = weight.mask_stride();
  params.row_blocks = view.row_blocks();
  params.records = view.records_per_row_block();
  check_status(launch_pack(params, stream), "packing of a weight (kernel)");
  return std::make_unique<SparseTiles>(std::move(data), std::move(offsets), view);
}

std::unique_ptr<DenseWeight> WeightPacker::pack_dense(const Tensor& dense, cudaStream_t stream) {
  OwnedTensor values(device_, dense.dtype(), {dense.size(0), dense.size(1)});
  upload(values.view.raw(), dense.raw(), static_cast<std::size_t>(dense.nbytes()), stream);
  return std::make_unique<DenseWeight>(std::move(values));
}

}  // namespace gossamer::cuda
