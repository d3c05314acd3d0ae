// Log lines go to one sink that the host program sets (Python: the `gossamer` logger); default: warnings to stderr.
#pragma once

#include <functional>
#include <string_view>

namespace gossamer {

enum class LogLevel { debug, info, warning, error };
using LogSink = std::function<void(LogLevel, std::string_view)>;

void set_log_sink(LogSink sink);  // thread-safe; an empty sink restores the default
void log(LogLevel level, std::string_view message);

}  // namespace gossamer
