// Stream-K: how the work of one SpMM is spread over CTAs. Host and device use the same arithmetic; tests run it on the host.
//
// A unit is one record (32 rows x 64 columns) for each row warp. Units are numbered super row (32 * row warps rows) by super row, along k.
// CTA c takes the contiguous units [begin(c), begin(c + 1)); within each super row it touches (a segment), its groups of warps split k.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace gossamer {

struct SpmmSchedule {
  std::int32_t super_rows;
  std::int32_t records;  // units per super row
  std::int32_t ctas;

  GOSSAMER_HOST_DEVICE std::int64_t units() const { return std::int64_t{super_rows} * records; }
  GOSSAMER_HOST_DEVICE std::int32_t begin(std::int32_t cta) const { return static_cast<std::int32_t>(units() * cta / ctas); }
  // The CTA that owns a unit.
  GOSSAMER_HOST_DEVICE std::int32_t owner(std::int64_t unit) const { return static_cast<std::int32_t>(((unit + 1) * ctas - 1) / units()); }
};

// How many of a row warp's groups end a segment, each with its share of the 2 * n_tiles fragments of sums. One does while the others go on
// with the next segment; where many groups share k there is seldom a next, and all wait for the end.
GOSSAMER_HOST_DEVICE constexpr int ending_warps(int groups, int n_tiles) { return groups < 8 ? 1 : 2 * n_tiles; }

}  // namespace gossamer
