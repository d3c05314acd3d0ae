// Weights of 8-bit values on the reference backend: the cases that a GPU must pass, too.
#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "support/byte_weight_cases.h"

namespace gossamer {
namespace {

using namespace gossamer::testing;

TEST(ReferenceBytes, MatchTheFormula) {
  HostAllocator allocator;
  byte_weight_cases(*make_reference_ops(&allocator), false);
}

TEST(ReferenceBytes, RandomOnesAreTheirFormulas) {
  HostAllocator allocator;
  random_byte_weight_cases(*make_reference_ops(&allocator));
}

}  // namespace
}  // namespace gossamer
