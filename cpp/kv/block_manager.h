// BlockManager: which KV block belongs to which sequence. Integers only; no memory, no device.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace gossamer {

using SequenceId = std::uint64_t;

class BlockManager {
 public:
  BlockManager(std::int64_t num_blocks, std::int64_t block_size);

  std::int64_t num_blocks() const { return num_blocks_; }
  std::int64_t block_size() const { return block_size_; }
  std::int64_t num_free() const { return static_cast<std::int64_t>(free_.size()); }
  std::int64_t blocks_for(std::int64_t num_tokens) const { return (num_tokens + block_size_ - 1) / block_size_; }

  // Grows the sequence's table so that it holds num_tokens; all or nothing: false (and no change) when too few blocks are free.
  bool reserve(SequenceId sequence, std::int64_t num_tokens);
  // Gives all blocks of the sequence back; unknown ids are fine (idempotent).
  void release(SequenceId sequence);

  std::span<const std::int32_t> table(SequenceId sequence) const;
  // Slot (block * block_size + offset) of a token position that is reserved.
  std::int32_t slot(SequenceId sequence, std::int64_t position) const;

  // free + used == total, no block twice, table lengths consistent. Throws InternalError.
  void check_invariants() const;

 private:
  std::int64_t num_blocks_;
  std::int64_t block_size_;
  std::vector<std::int32_t> free_;  // a stack
  std::unordered_map<SequenceId, std::vector<std::int32_t>> tables_;
};

}  // namespace gossamer
