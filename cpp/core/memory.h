// Allocator (a seam), Buffer (owns one allocation), Arena (bump allocation over one Buffer, laid out at load).
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>

#include "core/device.h"
#include "core/tensor.h"

namespace gossamer {

inline constexpr std::size_t kAlignment = 64;  // bytes: a cache line, an AVX-512 register

class Allocator {
 public:
  virtual ~Allocator() = default;
  // Never returns null: throws OutOfMemoryError. bytes may be 0. Alignment is kAlignment or better. Contents are undefined.
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void deallocate(void* pointer, std::size_t bytes) noexcept = 0;
  virtual Device device() const = 0;

  // Bookkeeping for stats and leak tests.
  virtual std::int64_t live_bytes() const = 0;
  virtual std::int64_t live_blocks() const = 0;
  virtual std::int64_t total_allocations() const = 0;
};

// Plain host memory. Large blocks are aligned to 2 MiB and advised as huge pages.
class HostAllocator final : public Allocator {
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

// Host memory for what a load stages: large blocks that are freed wait for the next of about their size, because the system clears fresh
// pages, which costs as much as filling them. No more than 512 MiB wait.
class StagingAllocator final : public Allocator {
 public:
  StagingAllocator() = default;
  ~StagingAllocator() override;
  StagingAllocator(const StagingAllocator&) = delete;
  StagingAllocator& operator=(const StagingAllocator&) = delete;
  void* allocate(std::size_t bytes) override;
  void deallocate(void* pointer, std::size_t bytes) noexcept override;
  Device device() const override { return {}; }
  std::int64_t live_bytes() const override { return host_.live_bytes(); }  // with those that wait
  std::int64_t live_blocks() const override { return host_.live_blocks(); }
  std::int64_t total_allocations() const override { return host_.total_allocations(); }

 private:
  struct Block {
    void* pointer = nullptr;
    std::size_t bytes = 0;
  };
  void release() noexcept;

  HostAllocator host_;
  std::mutex mutex_;
  std::array<Block, 16> waiting_{};  // the latest first; null: none
  std::size_t waiting_bytes_ = 0;
};

// A move-only allocation. The allocator outlives its buffers.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Allocator& allocator, std::size_t bytes);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  // A contiguous view at a byte offset; checked against the size.
  Tensor view(DType dtype, std::initializer_list<std::int64_t> shape, std::size_t offset = 0) const;

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  Allocator* allocator_ = nullptr;
  Device device_{};
};

// A Tensor with the Buffer under it.
struct OwnedTensor {
  OwnedTensor() = default;
  OwnedTensor(Allocator& allocator, DType dtype, std::initializer_list<std::int64_t> shape);
  Buffer buffer;
  Tensor view;
};

// Bump allocation; take() is a pointer addition. Sized once at load from the config; running out is an InternalError.
class Arena {
 public:
  Arena(Allocator& allocator, std::size_t capacity);

  Tensor take(DType dtype, std::initializer_list<std::int64_t> shape);
  std::size_t used() const { return used_; }
  std::size_t peak() const { return peak_; }
  std::size_t capacity() const { return buffer_.bytes(); }

  // Everything taken after the mark is given back by reset(mark).
  std::size_t mark() const { return used_; }
  void reset(std::size_t mark = 0);

  // Gives back on scope exit what was taken in the scope.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
    ~Scope() { arena_.reset(mark_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    std::size_t mark_;
  };

 private:
  Buffer buffer_;
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
};

}  // namespace gossamer
