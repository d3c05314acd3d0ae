// The loop around pread: interrupted and short reads go on, everything else ends it. Internal to core; tests feed it every kind of read.
#pragma once

#include <sys/types.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

namespace gossamer {

struct ReadOutcome {
  std::size_t done = 0;  // bytes; fewer than asked for means that it failed there
  int error = 0;         // errno; 0 with fewer bytes = the file ended
};

// read(pointer, bytes, offset) behaves as pread does.
template <typename Read>
ReadOutcome read_fully(Read&& read, std::uint64_t offset, std::span<std::byte> out) {
  ReadOutcome outcome;
  while (outcome.done < out.size()) {
    const ssize_t count = read(out.data() + outcome.done, out.size() - outcome.done, static_cast<off_t>(offset + outcome.done));
    if (count > 0) {
      outcome.done += static_cast<std::size_t>(count);
    } else if (count == 0 || errno != EINTR) {
      outcome.error = count == 0 ? 0 : errno;
      break;
    }
  }
  return outcome;
}

}  // namespace gossamer
