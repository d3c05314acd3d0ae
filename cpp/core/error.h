// The error contract (what, why, what to do), one class per row of the table in ARCHITECTURE.md. The bindings map each to a Python class.
#pragma once

#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>

namespace gossamer {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A bad argument: ValueError in Python. The message names the argument and the allowed range.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

// A broken invariant of ours, never the user's fault.
class InternalError : public Error {
 public:
  using Error::Error;
};

// Where in a checkpoint something is wrong. Empty members are left out of the message.
struct CheckpointFault {
  std::string file{};        // bare file name
  std::string tensor{};      // logical or physical tensor name, escaped for printing
  std::int64_t offset = -1;  // byte offset in the file; -1 = unknown
  std::string field{};       // "shape", "row_offsets", "files.model.sha256", ...
  std::string expected{};
  std::string found{};
  std::string fix{};  // what the user can do
};

class CheckpointError : public Error {
 public:
  explicit CheckpointError(const std::string& what) : Error(what) {}
  CheckpointError(std::string_view what, CheckpointFault fault);
  const CheckpointFault& fault() const { return fault_; }

 private:
  CheckpointFault fault_;
};

class ChecksumError : public CheckpointError {
 public:
  using CheckpointError::CheckpointError;
};
class CheckpointVersionError : public CheckpointError {
 public:
  using CheckpointError::CheckpointError;
};
class UnsafePathError : public CheckpointError {
 public:
  using CheckpointError::CheckpointError;
};

class OutOfMemoryError : public Error {
 public:
  // pool: "host", "cuda:0", "kv cache"; hint: the knob to turn. free_bytes < 0 means unknown.
  OutOfMemoryError(std::size_t wanted_bytes, std::int64_t free_bytes, std::string_view pool, std::string_view hint);
  std::size_t wanted_bytes = 0;
  std::int64_t free_bytes = -1;
  std::string pool;
};

class DeviceError : public Error {
 public:
  using Error::Error;
};
class EngineDeadError : public Error {
 public:
  using Error::Error;
};
class QueueFullError : public Error {
 public:
  using Error::Error;
};
class NumericsError : public Error {
 public:
  using Error::Error;
};

class ContextLengthError : public InvalidArgument {
 public:
  ContextLengthError(std::int64_t num_prompt, std::int64_t num_new, std::int64_t limit);
  std::int64_t num_prompt;
  std::int64_t num_new;
  std::int64_t limit;
};

// Throws InvalidArgument. Use at the door of a public function.
inline void require(bool condition, const std::string& message) {
  if (!condition) [[unlikely]]
    throw InvalidArgument(message);
}

[[noreturn]] void throw_internal(std::string_view what, std::source_location where);

// An invariant of our own; the message carries file and line.
inline void check(bool condition, std::string_view what, std::source_location where = std::source_location::current()) {
  if (!condition) [[unlikely]]
    throw_internal(what, where);
}

// Escapes control, bidi and non-UTF-8 bytes and shortens to 200 characters: for names taken from files.
std::string printable(std::string_view untrusted);

}  // namespace gossamer
