#include <gtest/gtest.h>

#include <memory>

#include "comm/communicator.h"
#include "cpu/cpu_ops.h"
#include "support/random.h"

namespace gossamer {
namespace {

TEST(SingleCommunicator, EveryCollectiveIsTheIdentity) {
  const auto ops = make_reference_ops();
  const auto comm = make_single_communicator();
  EXPECT_EQ(comm->rank(), 0);
  EXPECT_EQ(comm->size(), 1);
  testing::Random random(41);
  const OwnedTensor x = testing::random_matrix(ops->allocator(), DType::f32, 3, 5, 1.0, random);
  const std::vector<float> before = testing::to_floats(x.view);
  comm->all_reduce_sum(*ops, x.view);
  comm->broadcast(*ops, x.view, 0);
  comm->all_gather_last(*ops, x.view, x.view);
  comm->barrier();
  EXPECT_EQ(testing::to_floats(x.view), before);
  const OwnedTensor out(ops->allocator(), DType::f32, {3, 5});
  comm->all_gather_last(*ops, out.view, x.view);
  EXPECT_EQ(testing::to_floats(out.view), before);
  EXPECT_THROW(comm->broadcast(*ops, x.view, 1), InvalidArgument);
}

}  // namespace
}  // namespace gossamer
