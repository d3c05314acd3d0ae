#include "core/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <limits>
#include <utility>

namespace gossamer {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::int64_t free_host_bytes() {
  const long pages = ::sysconf(_SC_AVPHYS_PAGES);
  const long page_bytes = ::sysconf(_SC_PAGESIZE);
  return pages < 0 || page_bytes < 0 ? -1 : static_cast<std::int64_t>(pages) * page_bytes;
}

std::size_t bytes_of(DType dtype, std::initializer_list<std::int64_t> shape) {
  std::byte anything{};  // a tensor without data has no elements
  return static_cast<std::size_t>(Tensor(&anything, dtype, shape).nbytes());
}

std::size_t align_up(std::size_t bytes) {
  check(bytes <= std::numeric_limits<std::size_t>::max() - kAlignment, "a size in bytes overflows");
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

void* HostAllocator::allocate(std::size_t bytes) {
  void* pointer = nullptr;
  const bool huge = bytes >= kHugePage;
  constexpr auto kLargest = static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max());
  if (bytes > kLargest || ::posix_memalign(&pointer, huge ? kHugePage : kAlignment, bytes == 0 ? 1 : bytes) != 0 || pointer == nullptr) {
    throw OutOfMemoryError(bytes, free_host_bytes(), "host",
                           "Free memory, or use a smaller model, a smaller kv_cache_memory or a smaller max_model_len");
  }
  if (huge) ::madvise(pointer, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // advice only: failure changes nothing
  live_bytes_ += static_cast<std::int64_t>(bytes);
  ++live_blocks_;
  ++total_;
  return pointer;
}

void HostAllocator::deallocate(void* pointer, std::size_t bytes) noexcept {
  if (pointer == nullptr) return;
  std::free(pointer);
  live_bytes_ -= static_cast<std::int64_t>(bytes);
  --live_blocks_;
}

namespace {

constexpr std::size_t kMaxWaitingBytes = std::size_t{512} << 20;

// Layers' blocks differ a little with their number of values: in steps of an eighth they are alike.
std::size_t staged_bytes(std::size_t bytes) {
  if (bytes < kHugePage || bytes > kMaxWaitingBytes) return bytes;
  const std::size_t step = std::bit_floor(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

}  // namespace

StagingAllocator::~StagingAllocator() { release(); }

void StagingAllocator::release() noexcept {
  const std::lock_guard lock(mutex_);
  for (Block& block : waiting_) {
    const Block last = std::exchange(block, {});
    host_.deallocate(last.pointer, last.bytes);
  }
  waiting_bytes_ = 0;
}

void* StagingAllocator::allocate(std::size_t bytes) {
  const std::size_t staged = staged_bytes(bytes);
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(waiting_.begin(), waiting_.end(),
                                    [staged](const Block& block) { return block.pointer != nullptr && block.bytes == staged; });
    if (found != waiting_.end()) {
      void* const pointer = found->pointer;
      std::move(found + 1, waiting_.end(), found);
      waiting_.back() = {};
      waiting_bytes_ -= staged;
      return pointer;
    }
  }
  try {
    return host_.allocate(staged);
  } catch (const OutOfMemoryError&) {
    release();
    return host_.allocate(staged);
  }
}

void StagingAllocator::deallocate(void* pointer, std::size_t bytes) noexcept {
  if (pointer == nullptr) return;
  const std::size_t staged = staged_bytes(bytes);
  if (staged < kHugePage || staged > kMaxWaitingBytes) return host_.deallocate(pointer, staged);
  const std::lock_guard lock(mutex_);
  // Those that have waited longest make room: one place at least, and bytes.
  for (auto oldest = waiting_.rbegin(); oldest != waiting_.rend(); ++oldest) {
    if (oldest != waiting_.rbegin() && waiting_bytes_ + staged <= kMaxWaitingBytes) break;
    host_.deallocate(oldest->pointer, oldest->bytes);
    waiting_bytes_ -= oldest->bytes;
    *oldest = {};
  }
  std::move_backward(waiting_.begin(), waiting_.end() - 1, waiting_.end());
  waiting_.front() = {pointer, staged};
  waiting_bytes_ += staged;
}

Buffer::Buffer(Allocator& allocator, std::size_t bytes)
    : data_(allocator.allocate(bytes)), bytes_(bytes), allocator_(&allocator), device_(allocator.device()) {}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      allocator_(std::exchange(other.allocator_, nullptr)),
      device_(other.device_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  Buffer taken(std::move(other));  // what this buffer held is freed on return
  std::swap(data_, taken.data_);
  std::swap(bytes_, taken.bytes_);
  std::swap(allocator_, taken.allocator_);
  std::swap(device_, taken.device_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) allocator_->deallocate(data_, bytes_);
}

Tensor Buffer::view(DType dtype, std::initializer_list<std::int64_t> shape, std::size_t offset) const {
  const std::size_t wanted = bytes_of(dtype, shape);
  check(data_ != nullptr, "Buffer::view of an empty buffer");
  check(offset % size_of(dtype) == 0, "Buffer::view at an offset that is not a multiple of the element size");
  check(offset <= bytes_ && wanted <= bytes_ - offset, "Buffer::view reaches beyond the buffer");
  return Tensor(static_cast<std::byte*>(data_) + offset, dtype, shape, device_);
}

OwnedTensor::OwnedTensor(Allocator& allocator, DType dtype, std::initializer_list<std::int64_t> shape)
    : buffer(allocator, bytes_of(dtype, shape)), view(buffer.view(dtype, shape)) {}

Arena::Arena(Allocator& allocator, std::size_t capacity) : buffer_(allocator, align_up(capacity)) {}

Tensor Arena::take(DType dtype, std::initializer_list<std::int64_t> shape) {
  const std::size_t wanted = bytes_of(dtype, shape);
  const std::size_t free = capacity() - used_;
  if (wanted > free) [[unlikely]] {
    throw_internal("arena exhausted: wanted " + std::to_string(wanted) + " bytes, " + std::to_string(free) + " of " +
                       std::to_string(capacity()) + " left",
                   std::source_location::current());
  }
  const Tensor result = buffer_.view(dtype, shape, used_);
  used_ += align_up(wanted);
  peak_ = used_ > peak_ ? used_ : peak_;
  return result;
}

void Arena::reset(std::size_t mark) {
  check(mark <= used_, "Arena::reset to a mark that was already given back");
  used_ = mark;
}

}  // namespace gossamer
