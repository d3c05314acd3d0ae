#include "core/file_io.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "core/error.h"

namespace gossamer {
namespace {

using namespace std::string_literals;
namespace fs = std::filesystem;

class FileIoTest : public ::testing::Test {
 protected:
  FileIoTest() {
    std::string pattern = (fs::temp_directory_path() / "gossamer-file-io-XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
    write("plain", "0123456789");
  }
  ~FileIoTest() override { fs::remove_all(root_); }

  void write(const std::string& name, const std::string& text) const { std::ofstream(root_ / name, std::ios::binary) << text; }
  std::unique_ptr<Directory> open(bool allow_symlinks = false) const { return open_directory(root_.string(), allow_symlinks); }
  static std::string read(const File& file, std::uint64_t offset, std::size_t count) {
    std::string text(count, '\0');
    file.read_at(offset, std::as_writable_bytes(std::span(text)));
    return text;
  }

  fs::path root_;
};

template <typename Expected>
std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Expected& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error of the expected type";
  return {};
}

TEST_F(FileIoTest, ReadsAnyRange) {
  const auto file = open()->open("plain");
  EXPECT_EQ(file->size(), 10U);
  EXPECT_EQ(read(*file, 0, 10), "0123456789");
  EXPECT_EQ(read(*file, 7, 3), "789");
  EXPECT_EQ(read(*file, 10, 0), "");
  EXPECT_THROW(read(*file, 8, 3), CheckpointError);
  EXPECT_THROW(read(*file, 11, 0), CheckpointError);
  EXPECT_THROW(read(*file, ~std::uint64_t{0}, 2), CheckpointError);
}

TEST_F(FileIoTest, OutlivesItsDirectory) {
  auto directory = open();
  const auto file = directory->open("plain");
  directory.reset();
  EXPECT_EQ(read(*file, 1, 2), "12");
}

TEST_F(FileIoTest, NoticesAFileThatShrinks) {
  const auto file = open()->open("plain");
  fs::resize_file(root_ / "plain", 4);
  EXPECT_NE(message_of<CheckpointError>([&] { read(*file, 2, 8); }).find("became shorter"), std::string::npos);
}

TEST_F(FileIoTest, ListsSortedAndKnowsWhatExists) {
  write("b", "");
  write("a", "");
  fs::create_directory(root_ / "sub");
  const auto directory = open();
  EXPECT_EQ(directory->list(), (std::vector<std::string>{"a", "b", "plain", "sub"}));
  EXPECT_EQ(directory->list().size(), 4U) << "a second listing starts anew";
  EXPECT_TRUE(directory->exists("a"));
  EXPECT_FALSE(directory->exists("c"));
}

TEST_F(FileIoTest, TakesOnlyBareNames) {
  const auto directory = open();
  for (const std::string& name :
       {""s, "."s, ".."s, "../plain"s, "/etc/passwd"s, "sub/file"s, "a\\b"s, "plain\0x"s, "new\nline"s, "plain/"s, std::string(256, 'x')}) {
    EXPECT_THROW(directory->open(name), UnsafePathError) << printable(name);
    EXPECT_THROW(directory->exists(name), UnsafePathError) << printable(name);
  }
}

TEST_F(FileIoTest, RefusesSymbolicLinksUnlessAllowed) {
  fs::create_symlink("plain", root_ / "inside");
  fs::create_symlink("/dev/zero", root_ / "zero");
  fs::create_symlink("nowhere", root_ / "dangling");
  fs::create_symlink("loop", root_ / "loop");
  const auto strict = open();
  for (const char* name : {"inside", "zero", "dangling", "loop"}) {
    EXPECT_NE(message_of<UnsafePathError>([&] { strict->open(name); }).find("allow_symlinks"), std::string::npos) << name;
  }
  const auto lenient = open(true);
  EXPECT_EQ(read(*lenient->open("inside"), 0, 3), "012");
  EXPECT_THROW(lenient->open("zero"), UnsafePathError) << "a link may lead to a regular file only";
  EXPECT_THROW(lenient->open("dangling"), CheckpointError);
  EXPECT_THROW(lenient->open("loop"), CheckpointError);
}

TEST_F(FileIoTest, RefusesWhatIsNotARegularFile) {
  fs::create_directory(root_ / "sub");
  ASSERT_EQ(::mkfifo((root_ / "fifo").c_str(), 0600), 0);
  const auto directory = open();
  EXPECT_THROW(directory->open("sub"), UnsafePathError);
  EXPECT_THROW(directory->open("fifo"), UnsafePathError) << "and does not wait for a writer";
}

TEST_F(FileIoTest, SaysWhatIsMissing) {
  EXPECT_NE(message_of<CheckpointError>([&] { open()->open("absent"); }).find("the file is missing (file absent)"), std::string::npos);
  const std::string nowhere = (root_ / "nowhere").string();
  const std::string missing = message_of<CheckpointError>([&] { open_directory(nowhere); });
  EXPECT_NE(missing.find("does not exist: '" + nowhere), std::string::npos) << missing;
  const std::string file = message_of<CheckpointError>([&] { open_directory((root_ / "plain").string()); });
  EXPECT_NE(file.find("is not a directory"), std::string::npos) << file;
  EXPECT_THROW(open_directory(""), CheckpointError);
  EXPECT_THROW(open_directory("/tmp\0x"s), CheckpointError);
}

TEST_F(FileIoTest, ReportsAnUnreadableFile) {
  if (::geteuid() == 0) GTEST_SKIP() << "the superuser may read everything";
  fs::permissions(root_ / "plain", fs::perms::none);
  EXPECT_NE(message_of<CheckpointError>([&] { open()->open("plain"); }).find("cannot be opened"), std::string::npos);
}

}  // namespace
}  // namespace gossamer
