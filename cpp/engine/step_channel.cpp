#include "engine/step_channel.h"

#include <cstring>

#include "core/error.h"

namespace gossamer {

StepChannel::StepChannel(RankGroup& group, std::int64_t max_inputs) : group_(group) {
  message_.reserve(static_cast<std::size_t>(max_inputs) * 2 * sizeof(std::int32_t));
}

void StepChannel::begin(StepCommand command) {
  message_.clear();
  put(static_cast<std::int64_t>(command));
}

void StepChannel::put(std::int64_t value) {
  const auto word = static_cast<std::int32_t>(value);
  const auto* bytes = reinterpret_cast<const std::byte*>(&word);
  message_.insert(message_.end(), bytes, bytes + sizeof(word));
}

void StepChannel::put(std::span<const std::int32_t> values) {
  put(std::ssize(values));
  const auto bytes = std::as_bytes(values);
  message_.insert(message_.end(), bytes.begin(), bytes.end());
}

void StepChannel::send_forward(std::span<const StepPart> parts) {
  begin(StepCommand::forward);
  put(std::ssize(parts));
  for (const StepPart& part : parts) {
    check(part.last_row < 0, "other ranks cannot read a token that only rank 0 has drawn");
    put(part.begin);
    put(part.tokens);
    put(part.blocks);
  }
  group_.broadcast(message_);
}

void StepChannel::send_logits(std::span<const std::int32_t> rows) {
  begin(StepCommand::logits);
  put(rows);
  group_.broadcast(message_);
}

void StepChannel::send_stop() {
  begin(StepCommand::stop);
  group_.broadcast(message_);
}

std::int32_t StepChannel::take() {
  check(next_ + sizeof(std::int32_t) <= message_.size(), "a step's message is too short");
  std::int32_t word = 0;
  std::memcpy(&word, message_.data() + next_, sizeof(word));
  next_ += sizeof(word);
  return word;
}

std::span<const std::int32_t> StepChannel::take_span() {
  const auto count = static_cast<std::size_t>(take());
  check(count <= (message_.size() - next_) / sizeof(std::int32_t), "a step's message is too short");
  const std::span<const std::int32_t> values(reinterpret_cast<const std::int32_t*>(message_.data() + next_), count);
  next_ += values.size_bytes();
  return values;
}

StepCommand StepChannel::receive() {
  group_.broadcast(message_);
  next_ = 0;
  const auto command = static_cast<StepCommand>(take());
  if (command == StepCommand::logits) rows_ = take_span();
  if (command == StepCommand::forward) {
    const std::int32_t num_parts = take();
    parts_.clear();
    for (std::int32_t i = 0; i < num_parts; ++i) {
      const std::int32_t begin = take();
      const std::span<const std::int32_t> tokens = take_span();
      parts_.push_back({.begin = begin, .tokens = tokens, .blocks = take_span()});
    }
  }
  return command;
}

}  // namespace gossamer
