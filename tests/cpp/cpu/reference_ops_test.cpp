#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "support/ops_cases.h"

namespace gossamer {
namespace {

using namespace gossamer::testing;

class ReferenceOps : public ::testing::TestWithParam<OpsCase> {};

TEST_P(ReferenceOps, Case) {
  HostAllocator allocator;
  {
    const std::unique_ptr<Ops> ops = make_reference_ops(&allocator);
    GetParam().run(*ops);
  }
  EXPECT_EQ(allocator.live_blocks(), 0);
}

INSTANTIATE_TEST_SUITE_P(Agrees, ReferenceOps, ::testing::ValuesIn(all_ops_cases()), name_of_case);
INSTANTIATE_TEST_SUITE_P(Bitwise, ReferenceOps, ::testing::ValuesIn(bitwise_ops_cases()), name_of_case);

}  // namespace
}  // namespace gossamer
