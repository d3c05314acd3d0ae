// ReadAhead: threads read and hash the files' next chunks while the tensors before them are packed.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "core/thread_pool.h"
#include "model/verified_file.h"

namespace gossamer {

class ReadAhead {
 public:
  // Bytes of a file that the tensor-th tensor of a load needs.
  struct Need {
    const VerifiedFile* file = nullptr;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    std::int64_t tensor = 0;
  };

  // The threads begin at once, in the order of the needs, and hold at most two chunks each. Needs are a forecast: what they leave out is
  // read when it is asked for, and what they name in vain is let go. The files must outlive this.
  ReadAhead(const std::vector<Need>& needs, int num_threads);
  ~ReadAhead();  // each thread finishes the chunk it is at
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // Fills out as VerifiedFile::read does, with the same errors: from memory where a thread has been or is, from the file elsewhere. One
  // call at a time.
  void read(const VerifiedFile& file, std::uint64_t offset, std::span<std::byte> out, ThreadPool& pool);

 private:
  struct Chunk {
    enum class State { waiting, being_read, in_memory, failed, let_go };
    Need bytes;                     // all of the chunk; its first tensor
    std::int64_t last_tensor = 0;   // that needs any of it
    std::uint64_t outstanding = 0;  // bytes of it that are still to be asked for
    State state = State::waiting;
    bool is_in_use = false;  // a read copies from it
    std::byte* memory = nullptr;
    std::exception_ptr error;
  };
  struct Slot {
    Buffer memory;
    Chunk* chunk = nullptr;  // null: free
  };
  // A part of one read: of a chunk in memory, or of the file.
  struct Piece {
    Chunk* chunk = nullptr;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
  };

  void add(const Need& need);
  void work();
  Slot* free_slot();
  bool has_work();
  std::vector<Piece> claim(const VerifiedFile& file, std::uint64_t begin, std::uint64_t end);
  void copy(const Piece& piece, std::byte* to);
  void finish(const std::vector<Piece>& pieces);
  void release_done();

  HostAllocator host_;
  std::deque<Chunk> chunks_;  // in the order of their first need
  std::map<std::pair<const VerifiedFile*, std::uint64_t>, Chunk*> by_place_;

  std::mutex mutex_;  // all below, and the chunks' state
  std::condition_variable work_changed_;
  std::condition_variable chunk_read_;
  std::size_t next_ = 0;  // chunk
  std::int64_t tensor_ = 0;
  bool is_over_ = false;
  std::vector<Slot> slots_;
  std::vector<std::thread> threads_;
};

}  // namespace gossamer
