#include "core/read_fully.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace gossamer {
namespace {

const std::string kFile = "the quick brown fox jumps over the lazy dog";

// Serves kFile at most `piece` bytes a call; every second call is interrupted, and call `fail_at` fails with EIO.
struct FlakyRead {
  std::size_t piece = 1;
  int fail_at = -1;
  int calls = 0;
  ssize_t operator()(void* to, std::size_t bytes, off_t from) {
    if (++calls == fail_at) return errno = EIO, -1;
    if (calls % 2 == 0) return errno = EINTR, -1;
    const auto at = static_cast<std::size_t>(from);
    const std::size_t count = at >= kFile.size() ? 0 : std::min({bytes, piece, kFile.size() - at});
    std::memcpy(to, kFile.data() + at, count);
    return static_cast<ssize_t>(count);
  }
};

TEST(ReadFully, GoesOnAfterShortAndInterruptedReads) {
  for (const std::size_t piece : {1, 2, 7, 100}) {
    std::string out(20, '\0');
    const ReadOutcome outcome = read_fully(FlakyRead{piece}, 4, std::as_writable_bytes(std::span(out)));
    EXPECT_EQ(outcome.done, 20U);
    EXPECT_EQ(out, kFile.substr(4, 20)) << piece;
  }
}

TEST(ReadFully, StopsAtTheFirstErrorAndAtTheEnd) {
  std::string out(20, '\0');
  FlakyRead failing{3, 5};
  const ReadOutcome failed = read_fully(failing, 0, std::as_writable_bytes(std::span(out)));
  EXPECT_EQ(failed.error, EIO);
  EXPECT_EQ(failed.done, 6U) << "two reads of three bytes came before it, two were interrupted";
  EXPECT_EQ(failing.calls, 5);
  const ReadOutcome ended = read_fully(FlakyRead{8}, kFile.size() - 5, std::as_writable_bytes(std::span(out)));
  EXPECT_EQ(ended.error, 0);
  EXPECT_EQ(ended.done, 5U);
}

}  // namespace
}  // namespace gossamer
