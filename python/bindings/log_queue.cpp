#include <deque>
#include <mutex>

#include "bindings.h"

namespace gossamer::python {
namespace {

constexpr std::size_t kMaxLines = 1000;  // older ones are dropped

struct LogQueue {
  std::mutex mutex;
  std::deque<std::pair<int, std::string>> lines;
};

// Never destroyed: a thread of the core may log while the process ends.
LogQueue& log_queue() {
  static auto* const queue = new LogQueue;
  return *queue;
}

int python_level(LogLevel level) {
  switch (level) {
    case LogLevel::debug: return 10;
    case LogLevel::info: return 20;
    case LogLevel::warning: return 30;
    case LogLevel::error: return 40;
  }
  return 40;
}

}  // namespace

void start_log_queue() {
  set_log_sink([](LogLevel level, std::string_view message) {
    LogQueue& queue = log_queue();
    const std::lock_guard lock(queue.mutex);
    if (queue.lines.size() == kMaxLines) queue.lines.pop_front();
    queue.lines.emplace_back(python_level(level), message);
  });
}

std::vector<std::pair<int, std::string>> take_log() {
  LogQueue& queue = log_queue();
  const std::lock_guard lock(queue.mutex);
  std::vector<std::pair<int, std::string>> lines(queue.lines.begin(), queue.lines.end());
  queue.lines.clear();
  return lines;
}

}  // namespace gossamer::python
