#include "core/error.h"

#include <gtest/gtest.h>

#include <string>

namespace gossamer {
namespace {

using namespace std::string_literals;

TEST(CheckpointError, SaysWhatWhereExpectedFoundAndHowToFix) {
  const CheckpointError error("offsets overlap", {.file = "a.safetensors",
                                                  .tensor = "w",
                                                  .offset = 17,
                                                  .field = "data_offsets",
                                                  .expected = "8",
                                                  .found = "4",
                                                  .fix = "Convert again."});
  EXPECT_STREQ(error.what(),
               "offsets overlap (file a.safetensors, tensor w, field data_offsets, byte offset 17): expected 8, found 4. Convert again.");
  EXPECT_EQ(error.fault().offset, 17);
}

TEST(CheckpointError, LeavesOutWhatIsUnknown) {
  EXPECT_STREQ(CheckpointError("no manifest", CheckpointFault{}).what(), "no manifest.");
  EXPECT_STREQ(ChecksumError("bad digest", {.file = "f"}).what(), "bad digest (file f).");
}

TEST(OutOfMemoryError, CarriesItsNumbers) {
  const OutOfMemoryError error(123, 45, "kv cache", "Lower kv_cache_memory");
  EXPECT_EQ(error.wanted_bytes, 123U);
  EXPECT_EQ(error.free_bytes, 45);
  EXPECT_EQ(error.pool, "kv cache");
  EXPECT_STREQ(error.what(), "out of memory in pool 'kv cache': wanted 123 bytes, free 45 bytes. Lower kv_cache_memory");
}

TEST(ContextLengthError, NamesAllThreeNumbers) {
  const ContextLengthError error(10, 20, 25);
  const std::string text = error.what();
  for (const char* number : {"10", "20", "25"}) EXPECT_NE(text.find(number), std::string::npos) << text;
  EXPECT_EQ(error.limit, 25);
}

TEST(Check, ThrowsInternalErrorWithThePlace) {
  try {
    check(false, "the sky fell");
    FAIL() << "check(false) returned";
  } catch (const InternalError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("the sky fell (error_test.cpp:"), std::string::npos) << text;
  }
  EXPECT_THROW(require(false, "no"), InvalidArgument);
}

TEST(Printable, KeepsOrdinaryText) {
  EXPECT_EQ(printable("model.layers.0.weight"), "model.layers.0.weight");
  EXPECT_EQ(printable("größe 東京 🙂"), "größe 東京 🙂");
  EXPECT_EQ(printable(""), "");
}

TEST(Printable, EscapesWhatCouldForgeALogLine) {
  EXPECT_EQ(printable("a\nb\t\x1b[0m\x7f\0z"s), "a\\u000ab\\u0009\\u001b[0m\\u007f\\u0000z");
  EXPECT_EQ(printable("\u202Eevil\u2066\u200B\u2028\uFEFF"), "\\u202eevil\\u2066\\u200b\\u2028\\ufeff");
  EXPECT_EQ(printable("back\\slash"), "back\\\\slash");
}

TEST(Printable, EscapesBytesThatAreNotUtf8) {
  EXPECT_EQ(printable("\x80"), "\\x80");
  EXPECT_EQ(printable("\xC0\xAF"), "\\xc0\\xaf");                    // overlong
  EXPECT_EQ(printable("\xED\xA0\x80"), "\\xed\\xa0\\x80");           // surrogate
  EXPECT_EQ(printable("\xF4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");  // beyond U+10FFFF
  EXPECT_EQ(printable("\xE6\x9D"), "\\xe6\\x9d");                    // cut short
}

TEST(Printable, ShortensToTwoHundredCharacters) {
  EXPECT_EQ(printable(std::string(200, 'x')), std::string(200, 'x'));
  EXPECT_EQ(printable(std::string(1000000, 'x')), std::string(200, 'x') + "...");
}

}  // namespace
}  // namespace gossamer
