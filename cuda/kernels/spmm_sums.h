// Where spmm_sums.cuh keeps a warp's sums: the arithmetic that host tests share.
#pragma once

#include "kernels/spmm_schedule.h"  // GOSSAMER_HOST_DEVICE

namespace gossamer {

// A line is the 32 rows of one token. Columns are swizzled so that a warp's writes (a register of its fragments) and its reads (a line) are
// free of bank conflicts.
GOSSAMER_HOST_DEVICE constexpr int sum_index(int token, int row) { return token * 32 + (row ^ token / 2 % 4 * 8); }

// Lines that a CTA may write to `partials`: every warp takes the same number.
GOSSAMER_HOST_DEVICE constexpr int spread_lines(int n_tiles, int row_warps, int groups) {
  return (n_tiles * 8 + groups - 1) / groups * groups * row_warps;
}

}  // namespace gossamer
