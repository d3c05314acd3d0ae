#include "kv/block_manager.h"

#include <algorithm>
#include <limits>
#include <string>

#include "core/error.h"

namespace gossamer {

BlockManager::BlockManager(std::int64_t num_blocks, std::int64_t block_size) : num_blocks_(num_blocks), block_size_(block_size) {
  require(num_blocks > 0 && block_size > 0,
          "num_blocks and block_size must be positive, not " + std::to_string(num_blocks) + " and " + std::to_string(block_size));
  require(num_blocks <= std::numeric_limits<std::int32_t>::max() / block_size,
          "num_blocks * block_size must be below 2^31: a slot is a 32-bit integer");
  free_.reserve(static_cast<std::size_t>(num_blocks));
  for (std::int64_t block = num_blocks; block-- > 0;) free_.push_back(static_cast<std::int32_t>(block));
}

bool BlockManager::reserve(SequenceId sequence, std::int64_t num_tokens) {
  check(num_tokens >= 0, "BlockManager::reserve of a negative number of tokens");
  const auto found = tables_.find(sequence);
  const std::int64_t held = found == tables_.end() ? 0 : static_cast<std::int64_t>(found->second.size());
  const std::int64_t needed = num_tokens / block_size_ + (num_tokens % block_size_ != 0 ? 1 : 0);
  if (needed <= held) return true;
  if (needed - held > num_free()) return false;
  std::vector<std::int32_t>& blocks = found == tables_.end() ? tables_[sequence] : found->second;
  // May throw; nothing has moved yet. Doubles, so that a growing sequence rarely allocates.
  if (static_cast<std::int64_t>(blocks.capacity()) < needed) blocks.reserve(static_cast<std::size_t>(std::max(needed, 2 * held)));
  for (std::int64_t i = held; i < needed; ++i) {
    blocks.push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

void BlockManager::release(SequenceId sequence) {
  const auto found = tables_.find(sequence);
  if (found == tables_.end()) return;
  // In reverse, so that the next sequence takes the blocks in the same order. Capacity was reserved: no allocation.
  free_.insert(free_.end(), found->second.rbegin(), found->second.rend());
  tables_.erase(found);
}

std::span<const std::int32_t> BlockManager::table(SequenceId sequence) const {
  const auto found = tables_.find(sequence);
  if (found == tables_.end()) return {};
  return found->second;
}

std::int32_t BlockManager::slot(SequenceId sequence, std::int64_t position) const {
  const std::span<const std::int32_t> blocks = table(sequence);
  const bool reserved = position >= 0 && position / block_size_ < static_cast<std::int64_t>(blocks.size());
  check(reserved, "BlockManager::slot of a position that is not reserved");
  const std::int64_t block = blocks[static_cast<std::size_t>(position / block_size_)];
  return static_cast<std::int32_t>(block * block_size_ + position % block_size_);
}

void BlockManager::check_invariants() const {
  std::vector<bool> seen(static_cast<std::size_t>(num_blocks_), false);
  std::int64_t total = 0;
  const auto visit = [&](std::int32_t block) {
    check(block >= 0 && block < num_blocks_, "a KV block id is out of range");
    check(!seen[static_cast<std::size_t>(block)], "a KV block is held twice");
    seen[static_cast<std::size_t>(block)] = true;
    ++total;
  };
  for (const std::int32_t block : free_) visit(block);
  for (const auto& [sequence, blocks] : tables_) {
    for (const std::int32_t block : blocks) visit(block);
  }
  check(total == num_blocks_, "free and used KV blocks do not add up to the pool");
}

}  // namespace gossamer
