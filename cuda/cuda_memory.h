// Device and pinned host memory, and the workspaces that verbs share.
#pragma once

#include <atomic>
#include <vector>

#include "core/memory.h"

namespace gossamer::cuda {

// Memory of one GPU. Thread-safe.
class CudaAllocator final : public Allocator {
 public:
  explicit CudaAllocator(int device_index) : device_{Device::Kind::cuda, device_index} {}
  void* allocate(std::size_t bytes) override;
  void deallocate(void* pointer, std::size_t bytes) noexcept override;
  Device device() const override { return device_; }
  std::int64_t live_bytes() const override { return live_bytes_; }
  std::int64_t live_blocks() const override { return live_blocks_; }
  std::int64_t total_allocations() const override { return total_; }

 private:
  Device device_;
  std::atomic<std::int64_t> live_bytes_{0};
  std::atomic<std::int64_t> live_blocks_{0};
  std::atomic<std::int64_t> total_{0};
};

// Page-locked host memory, which the device copies from and to while the host goes on.
class PinnedAllocator final : public Allocator {
 public:
  void* allocate(std::size_t bytes) override;
  void deallocate(void* pointer, std::size_t bytes) noexcept override;
  Device device() const override { return {}; }
  std::int64_t live_bytes() const override { return live_bytes_; }
  std::int64_t live_blocks() const override { return live_blocks_; }
  std::int64_t total_allocations() const override { return total_; }

 private:
  std::atomic<std::int64_t> live_bytes_{0};
  std::atomic<std::int64_t> live_blocks_{0};
  std::atomic<std::int64_t> total_{0};
};

// Scratch memory that grows to the largest size asked for. What it outgrew stays, because recorded graphs hold its address; doubling
// bounds that to as much again.
class Workspace {
 public:
  explicit Workspace(Allocator& allocator) : allocator_(allocator) {}
  // At least `bytes`; the contents are undefined. `grew`, if given, says whether the memory is new.
  void* reserve(std::size_t bytes, bool* grew = nullptr);
  std::size_t bytes() const { return buffers_.empty() ? 0 : buffers_.back().bytes(); }  // of the memory in use

 private:
  Allocator& allocator_;
  std::vector<Buffer> buffers_;  // the last is in use
};

}  // namespace gossamer::cuda
