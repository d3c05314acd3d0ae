#include "model/read_ahead.h"

#include <algorithm>
#include <cstring>
#include <system_error>

#include "core/worker_thread.h"
#include "model/manifest.h"

namespace gossamer {
namespace {

constexpr std::uint64_t kCopyBytes = std::uint64_t{1} << 20;  // by one thread at a time; divides a chunk

}  // namespace

ReadAhead::ReadAhead(const std::vector<Need>& needs, int num_threads) {
  for (const Need& need : needs) add(need);
  slots_.resize(std::min(chunks_.size(), 2 * static_cast<std::size_t>(num_threads)));
  for (Slot& slot : slots_) slot.memory = Buffer(host_, kChunkBytes);
  const std::size_t threads = std::min(chunks_.size(), static_cast<std::size_t>(num_threads));
  threads_.reserve(threads);
  try {
    while (threads_.size() < threads) threads_.push_back(start_worker([this] { work(); }));
  } catch (const std::system_error&) {
    // With fewer threads, or none, read() does more by itself.
  }
}

ReadAhead::~ReadAhead() {
  {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
    work_changed_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void ReadAhead::add(const Need& need) {
  for (std::uint64_t at = need.begin; at < need.end;) {
    const std::uint64_t begin = at / kChunkBytes * kChunkBytes;
    const std::uint64_t end = std::min(begin + kChunkBytes, need.file->size());
    Chunk*& chunk = by_place_[{need.file, begin}];
    if (chunk == nullptr) {
      chunk = &chunks_.emplace_back();
      chunk->bytes = {need.file, begin, end, need.tensor};
    }
    chunk->last_tensor = need.tensor;
    const std::uint64_t next = std::min(end, need.end);
    chunk->outstanding += next - at;
    at = next;
  }
}

bool ReadAhead::has_work() {
  while (next_ < chunks_.size() && chunks_[next_].state != Chunk::State::waiting) ++next_;
  return next_ < chunks_.size();
}

ReadAhead::Slot* ReadAhead::free_slot() {
  const auto found = std::find_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.chunk == nullptr; });
  return found == slots_.end() ? nullptr : &*found;
}

void ReadAhead::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    work_changed_.wait(lock, [this] { return is_over_ || !has_work() || free_slot() != nullptr; });
    if (is_over_ || !has_work()) return;
    Slot& slot = *free_slot();
    Chunk& chunk = chunks_[next_++];
    slot.chunk = &chunk;
    chunk.memory = static_cast<std::byte*>(slot.memory.data());
    chunk.state = Chunk::State::being_read;
    lock.unlock();
    std::exception_ptr error;
    try {
      chunk.bytes.file->read(chunk.bytes.begin, std::span(chunk.memory, chunk.bytes.end - chunk.bytes.begin));
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    chunk.state = error ? Chunk::State::failed : Chunk::State::in_memory;
    chunk.error = std::move(error);
    release_done();
    chunk_read_.notify_all();
  }
}

// Chunks that failed, that were asked for to the last byte, or whose tensors are all behind.
void ReadAhead::release_done() {
  for (Slot& slot : slots_) {
    if (slot.chunk == nullptr || slot.chunk->is_in_use) continue;
    Chunk& chunk = *slot.chunk;
    const bool is_done = chunk.state == Chunk::State::in_memory && (chunk.outstanding == 0 || chunk.last_tensor < tensor_);
    if (is_done) chunk.state = Chunk::State::let_go;
    if (is_done || chunk.state == Chunk::State::failed) {
      slot.chunk = nullptr;
      work_changed_.notify_one();
    }
  }
}

// Pieces of the file come first, one a chunk, because each may have to be hashed as a whole; a chunk that no thread has begun is one.
std::vector<ReadAhead::Piece> ReadAhead::claim(const VerifiedFile& file, std::uint64_t begin, std::uint64_t end) {
  std::vector<Piece> pieces;
  std::vector<Piece> copies;
  const std::lock_guard lock(mutex_);
  for (std::uint64_t at = begin; at < end;) {
    const std::uint64_t place = at / kChunkBytes * kChunkBytes;
    const std::uint64_t next = std::min(place + kChunkBytes, end);
    const auto found = by_place_.find({&file, place});
    Chunk* const chunk = found == by_place_.end() ? nullptr : found->second;
    if (chunk != nullptr) tensor_ = std::max(tensor_, chunk->bytes.tensor);
    if (chunk != nullptr && chunk->state == Chunk::State::waiting) chunk->state = Chunk::State::let_go;
    if (chunk == nullptr || chunk->state == Chunk::State::let_go) {
      pieces.push_back({nullptr, at, next});
    } else {
      chunk->is_in_use = true;
      for (; at < next; at = std::min(next, (at / kCopyBytes + 1) * kCopyBytes)) {
        copies.push_back({chunk, at, std::min(next, (at / kCopyBytes + 1) * kCopyBytes)});
      }
    }
    at = next;
  }
  pieces.insert(pieces.end(), copies.begin(), copies.end());
  return pieces;
}

void ReadAhead::copy(const Piece& piece, std::byte* to) {
  {
    std::unique_lock lock(mutex_);
    chunk_read_.wait(lock, [&] { return piece.chunk->state != Chunk::State::being_read; });
    if (piece.chunk->error) std::rethrow_exception(piece.chunk->error);
  }
  std::memcpy(to, piece.chunk->memory + (piece.begin - piece.chunk->bytes.begin), piece.end - piece.begin);
}

void ReadAhead::finish(const std::vector<Piece>& pieces) {
  const std::lock_guard lock(mutex_);
  for (const Piece& piece : pieces) {
    if (piece.chunk == nullptr) continue;
    piece.chunk->is_in_use = false;
    piece.chunk->outstanding -= std::min(piece.chunk->outstanding, piece.end - piece.begin);
  }
  release_done();
}

void ReadAhead::read(const VerifiedFile& file, std::uint64_t offset, std::span<std::byte> out, ThreadPool& pool) {
  const std::vector<Piece> pieces = claim(file, offset, offset + out.size());
  const auto fill = [&](std::int64_t begin, std::int64_t end) {
    for (const Piece& piece : std::span(pieces).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin))) {
      const std::span<std::byte> to = out.subspan(piece.begin - offset, piece.end - piece.begin);
      if (piece.chunk != nullptr) {
        copy(piece, to.data());
      } else {
        file.read(piece.begin, to);
      }
    }
  };
  try {
    pool.parallel_for(std::ssize(pieces), 1, fill);
  } catch (...) {
    finish(pieces);
    throw;
  }
  finish(pieces);
}

}  // namespace gossamer
