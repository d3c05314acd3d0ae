#include "core/file_io.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/read_fully.h"

namespace gossamer {
namespace {

std::string os_error(int code) { return std::generic_category().message(code); }

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&&) = delete;
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// The kernel's open_how and its numbers, which older system headers lack (openat2 is Linux 5.6).
struct OpenHow {
  std::uint64_t flags;
  std::uint64_t mode;
  std::uint64_t resolve;
};
constexpr long kOpenat2 = 437;
constexpr std::uint64_t kResolveNoMagicLinks = 0x02;
constexpr std::uint64_t kResolveNoSymlinks = 0x04;
constexpr std::uint64_t kResolveBeneath = 0x08;

// A file descriptor, or -1 with errno set. Non-blocking, so that a FIFO in place of a file cannot hold us up.
int open_beneath(int directory, const char* name, bool allow_symlinks) {
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  if (allow_symlinks) return ::openat(directory, name, kFlags);
  const OpenHow how{kFlags | O_NOFOLLOW, 0, kResolveNoMagicLinks | kResolveNoSymlinks | kResolveBeneath};
  const long fd = ::syscall(kOpenat2, directory, name, &how, sizeof(how));
  // Old kernels and sandboxes do not have the call. A bare name has one component, so O_NOFOLLOW alone says the same.
  const bool unavailable = fd < 0 && (errno == ENOSYS || errno == EPERM || errno == EINVAL || errno == E2BIG);
  return unavailable ? ::openat(directory, name, kFlags | O_NOFOLLOW) : static_cast<int>(fd);
}

void require_bare_name(std::string_view name) {
  const bool bad_character = std::any_of(name.begin(), name.end(), [](char c) {
    return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) == 0x7F;
  });
  if (name.empty() || name.size() > 255 || name == "." || name == ".." || bad_character) {
    throw UnsafePathError("a file name that leaves the model directory or is not a plain name",
                          {.file = printable(name), .expected = "a bare file name"});
  }
}

class PosixFile final : public File {
 public:
  PosixFile(FileDescriptor fd, std::uint64_t size, std::string name) : fd_(std::move(fd)), size_(size), name_(std::move(name)) {}

  std::uint64_t size() const override { return size_; }

  void read_at(std::uint64_t offset, std::span<std::byte> out) const override {
    if (offset > size_ || out.size() > size_ - offset)
      fail(offset, "a read beyond the end of the file", "at most " + std::to_string(size_) + " bytes");
    const auto read = [this](void* to, std::size_t bytes, off_t from) { return ::pread(fd_.get(), to, bytes, from); };
    const ReadOutcome outcome = read_fully(read, offset, out);
    if (outcome.done == out.size()) return;
    offset += outcome.done;
    if (outcome.error != 0) fail(offset, "reading the file failed: " + os_error(outcome.error), {});
    fail(offset, "the file became shorter while it was read", std::to_string(size_) + " bytes");
  }

 private:
  [[noreturn]] void fail(std::uint64_t offset, const std::string& what, std::string expected) const {
    throw CheckpointError(what, {.file = name_, .offset = static_cast<std::int64_t>(offset), .expected = std::move(expected)});
  }

  FileDescriptor fd_;
  std::uint64_t size_;
  std::string name_;
};

class PosixDirectory final : public Directory {
 public:
  PosixDirectory(FileDescriptor fd, bool allow_symlinks) : fd_(std::move(fd)), allow_symlinks_(allow_symlinks) {}

  std::unique_ptr<File> open(const std::string& name) const override {
    require_bare_name(name);
    FileDescriptor fd(open_beneath(fd_.get(), name.c_str(), allow_symlinks_));
    if (fd.get() < 0) fail_open(name, errno);
    struct stat status{};
    if (::fstat(fd.get(), &status) != 0) fail_open(name, errno);
    if (!S_ISREG(status.st_mode)) {
      throw UnsafePathError("not a regular file", {.file = printable(name),
                                                   .expected = "a regular file",
                                                   .found = S_ISDIR(status.st_mode) ? "a directory" : "a device, FIFO or socket"});
    }
    return std::make_unique<PosixFile>(std::move(fd), static_cast<std::uint64_t>(status.st_size), printable(name));
  }

  bool exists(const std::string& name) const override {
    require_bare_name(name);
    struct stat status{};
    return ::fstatat(fd_.get(), name.c_str(), &status, allow_symlinks_ ? 0 : AT_SYMLINK_NOFOLLOW) == 0;
  }

  std::vector<std::string> list() const override {
    FileDescriptor copy(::openat(fd_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));  // its own position in the listing
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(copy.get() < 0 ? nullptr : ::fdopendir(copy.get()), ::closedir);
    if (!stream) throw CheckpointError("the model directory cannot be listed: " + os_error(errno));
    copy.release();  // the stream owns it now
    std::vector<std::string> names;
    while (const dirent* entry = ::readdir(stream.get())) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  [[noreturn]] static void fail_open(const std::string& name, int code) {
    if (code == ELOOP || code == EXDEV) {
      throw UnsafePathError("the file is a symbolic link",
                            {.file = printable(name),
                             .expected = "a regular file",
                             .fix = "Copy the file it points to, or pass allow_symlinks=True if you trust the link."});
    }
    if (code == ENOENT) {
      throw CheckpointError("the file is missing", {.file = printable(name), .fix = "Convert or download the model again."});
    }
    throw CheckpointError("the file cannot be opened: " + os_error(code), {.file = printable(name)});
  }

  FileDescriptor fd_;
  bool allow_symlinks_;
};

}  // namespace

std::unique_ptr<Directory> open_directory(const std::string& path, bool allow_symlinks) {
  const bool has_nul = path.find('\0') != std::string::npos;
  FileDescriptor fd(has_nul ? -1 : ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) {
    const int code = has_nul ? ENOENT : errno;
    const char* what = code == ENOENT    ? "the model directory does not exist"
                       : code == ENOTDIR ? "the model path is not a directory"
                                         : "the model directory cannot be opened";
    throw CheckpointError(std::string(what) + ": '" + printable(path) + "'" +
                          (code == ENOENT || code == ENOTDIR ? std::string() : " (" + os_error(code) + ")") +
                          ". Pass the path of a directory made by `gossamer convert` or `gossamer prune`.");
  }
  return std::make_unique<PosixDirectory>(std::move(fd), allow_symlinks);
}

}  // namespace gossamer
