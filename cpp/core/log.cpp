#include "core/log.h"

#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace gossamer {
namespace {

struct SinkSlot {
  std::mutex mutex;
  std::shared_ptr<const LogSink> sink;
};

// Never destroyed: threads may log while the process exits.
SinkSlot& slot() {
  static auto& instance = *new SinkSlot;
  return instance;
}

void log_to_stderr(LogLevel level, std::string_view message) {
  if (level < LogLevel::warning) return;
  const std::string line =
      std::string("gossamer: ").append(level == LogLevel::warning ? "warning: " : "error: ").append(message).append("\n");
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace

void set_log_sink(LogSink sink) {
  auto next = sink ? std::make_shared<const LogSink>(std::move(sink)) : nullptr;
  const std::lock_guard lock(slot().mutex);
  slot().sink.swap(next);
}

void log(LogLevel level, std::string_view message) {
  std::shared_ptr<const LogSink> sink;
  {
    const std::lock_guard lock(slot().mutex);
    sink = slot().sink;
  }
  // Called without the lock, so a sink may log or wait for another lock (Python's).
  if (sink) {
    (*sink)(level, message);
  } else {
    log_to_stderr(level, message);
  }
}

}  // namespace gossamer
