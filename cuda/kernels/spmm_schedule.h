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

  // The same, by 32-bit divisions where the products fit: a 64-bit one takes some hundred dependent instructions, and every CTA starts and
  // ends with some.
  GOSSAMER_HOST_DEVICE bool is_short() const { return units() * ctas >> 32 == 0; }
  GOSSAMER_HOST_DEVICE std::int32_t begin_fast(std::int32_t cta) const {
    if (!is_short()) return begin(cta);
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(units()) * static_cast<std::uint32_t>(cta) /
                                     static_cast<std::uint32_t>(ctas));
  }
  GOSSAMER_HOST_DEVICE std::int32_t owner_fast(std::int64_t unit) const {
    if (!is_short()) return owner(unit);
    const std::uint32_t product = static_cast<std::uint32_t>(unit + 1) * static_cast<std::uint32_t>(ctas) - 1;
    return static_cast<std::int32_t>(product / static_cast<std::uint32_t>(units()));
  }
};

}  // namespace gossamer
