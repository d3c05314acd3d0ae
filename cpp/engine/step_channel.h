// StepChannel: how rank 0 tells the other ranks what to compute. They keep no books of their own: a step's tokens, positions and blocks
// are all they need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/rank_group.h"

namespace gossamer {

// One sequence's tokens of a step.
struct StepPart {
  std::int64_t begin = 0;  // position of the first token
  std::span<const std::int32_t> tokens;
  std::span<const std::int32_t> blocks;  // of the KV cache, that the sequence holds
  std::int32_t last_row = -1;            // >= 0: one more token, that of this row of the last draw, which the host has not seen

  std::int64_t num_tokens() const { return std::ssize(tokens) + (last_row >= 0 ? 1 : 0); }
};

enum class StepCommand : std::int32_t { forward, logits, stop };

class StepChannel {
 public:
  // max_inputs: integers that a step may take.
  StepChannel(RankGroup& group, std::int64_t max_inputs);

  // Rank 0.
  void send_forward(std::span<const StepPart> parts);
  void send_logits(std::span<const std::int32_t> rows);
  void send_stop();

  // The others. What a command goes with stays valid until the next receive().
  StepCommand receive();
  std::span<const StepPart> parts() const { return parts_; }
  std::span<const std::int32_t> rows() const { return rows_; }

 private:
  void begin(StepCommand command);
  void put(std::int64_t value);
  void put(std::span<const std::int32_t> values);
  std::int32_t take();
  std::span<const std::int32_t> take_span();

  RankGroup& group_;
  std::vector<std::byte> message_;
  std::size_t next_ = 0;  // byte to read
  std::vector<StepPart> parts_;
  std::span<const std::int32_t> rows_;
};

}  // namespace gossamer
