// Counts and fails calls of operator new in this test program.
#pragma once

#include "support/faults.h"

namespace gossamer {

// While it lives, every operator new of any thread counts at its point and fails when the point says so.
class NewHook {
 public:
  explicit NewHook(testing::FaultPoint& point);
  ~NewHook();
  NewHook(const NewHook&) = delete;
  NewHook& operator=(const NewHook&) = delete;
};

}  // namespace gossamer
