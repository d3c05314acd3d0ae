#pragma once

#include <string>

namespace gossamer {

// Where memory lives. Host memory is {cpu, 0}; pinned memory is host memory too.
struct Device {
  enum class Kind { cpu, cuda };
  Kind kind = Kind::cpu;
  int index = 0;

  friend bool operator==(const Device&, const Device&) = default;
  std::string to_string() const;  // "cpu", "cuda:1"
};

}  // namespace gossamer
