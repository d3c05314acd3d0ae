#include "core/log.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace gossamer {
namespace {

TEST(Log, GoesToTheSinkThatIsSet) {
  std::vector<std::string> lines;
  set_log_sink([&lines](LogLevel level, std::string_view message) {
    lines.push_back(std::to_string(static_cast<int>(level)) + " " + std::string(message));
  });
  log(LogLevel::debug, "one");
  log(LogLevel::error, "two");
  set_log_sink({});
  EXPECT_EQ(lines, (std::vector<std::string>{"0 one", "3 two"}));
}

TEST(Log, ShowsWarningsAndWorseByDefault) {
  ::testing::internal::CaptureStderr();
  log(LogLevel::info, "quiet");
  log(LogLevel::warning, "loud");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "gossamer: warning: loud\n");
}

TEST(Log, SinkMayLogItself) {
  int depth = 0;
  set_log_sink([&depth](LogLevel, std::string_view) {
    if (++depth < 3) log(LogLevel::info, "again");
  });
  log(LogLevel::info, "first");
  set_log_sink({});
  EXPECT_EQ(depth, 3);
}

}  // namespace
}  // namespace gossamer
