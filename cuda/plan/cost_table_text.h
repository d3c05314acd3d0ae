// Cost tables as text, as `gossamer tune` stores them:
//
//     gossamer cost table 1
//     device NVIDIA H100 80GB HBM3
//     rows 1024 4096 12288 32768
//     columns 1024 4096 16384
//     dense_flops 6.6e+08
//     bitmap 0.6 8 4.03 5.85 ...
//
// A line per curve follows: path, sparsity, tokens, microseconds of [rows][columns].
#pragma once

#include <string>
#include <string_view>

#include "plan/cost_table.h"

namespace gossamer {

// device: the GPU's name.
std::string to_text(const CostTable& table, std::string_view device);
// Throws InvalidArgument, naming `source` and the line, for text that is no such table or was measured on another device.
CostTable parse_cost_table(std::string_view text, std::string_view device, const std::string& source);
// The same of a file.
CostTable read_cost_table(const std::string& path, std::string_view device);

}  // namespace gossamer
