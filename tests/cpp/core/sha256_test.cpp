#include "core/sha256.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "core/sha256_blocks.h"
#include "support/random.h"

namespace gossamer {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

std::string hex_of(std::string_view text) { return to_hex(sha256(bytes_of(text))); }

// The examples of FIPS 180-4 and its companion vectors.
TEST(Sha256, PublishedVectors) {
  EXPECT_EQ(hex_of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hex_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hex_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(hex_of("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu"),
            "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  EXPECT_EQ(hex_of(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesGiveTheWholesDigest) {
  const std::string text = [] {
    testing::Random random(11);
    std::string s(1000, '\0');
    for (char& c : s) c = static_cast<char>(random.next());
    return s;
  }();
  for (std::size_t length : {0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 128, 1000}) {
    const std::string_view whole = std::string_view(text).substr(0, length);
    for (std::size_t piece : {1, 3, 63, 64, 65, 200}) {
      Sha256 hash;
      for (std::size_t at = 0; at < length; at += piece) hash.update(bytes_of(whole.substr(at, piece)));
      hash.update({});
      ASSERT_EQ(to_hex(hash.finish()), hex_of(whole)) << length << " by " << piece;
    }
  }
}

TEST(Sha256, AcceleratedEqualsPortable) {
  const Sha256Compress accelerated = sha256_compress_accelerated();
  if (accelerated == nullptr) GTEST_SKIP() << "this CPU has no SHA instructions";
  testing::Random random(12);
  std::vector<std::byte> blocks(64 * 37 + 1);
  for (std::byte& b : blocks) b = static_cast<std::byte>(random.next());
  for (std::size_t count = 0; count <= 37; ++count) {
    Sha256State start;
    for (std::uint32_t& word : start) word = static_cast<std::uint32_t>(random.next());
    Sha256State a = start;
    Sha256State b = start;
    sha256_compress_portable(a, blocks.data() + 1, count);
    accelerated(b, blocks.data() + 1, count);
    ASSERT_EQ(a, b) << count;
    ASSERT_EQ(count == 0, a == start);
  }
}

}  // namespace
}  // namespace gossamer
