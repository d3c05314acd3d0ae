// What NcclCommunicator does when NCCL is slow, fails or hangs, or a rank is gone: over a fake NCCL, with ranks as threads.
#include "nccl_communicator.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <vector>

#include "core/error.h"
#include "cpu/cpu_ops.h"
#include "fake_nccl.h"
#include "support/local_ranks.h"

namespace gossamer::cuda {
namespace {

using gossamer::testing::run_ranks;
using std::chrono::milliseconds;

void note_end(const std::string&) {}
constexpr RankGroupOptions kOptions{.watchdog = milliseconds(10'000), .grace = milliseconds(1), .end_process = &note_end};

class NcclCommunicatorTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::reset_fake_nccl(); }
  void TearDown() override { EXPECT_EQ(nccl_.uses_after_abort, 0); }

  // body(communicator, group) on every rank.
  std::vector<std::string> with_communicators(int size, const RankGroupOptions& options,
                                              const std::function<void(Communicator&, RankGroup&)>& body) {
    return run_ranks(size, options, [&](RankGroup& group) {
      HostAllocator allocator;
      const std::unique_ptr<Ops> ops = make_reference_ops(&allocator);
      ops_[static_cast<std::size_t>(group.rank())] = ops.get();
      const std::unique_ptr<Communicator> comm = make_nccl_communicator(*ops, group, {});
      body(*comm, group);
    });
  }

  void sum(const Communicator& comm) {
    std::vector<float> values(8, 1.0F);
    const_cast<Communicator&>(comm).all_reduce_sum(*ops_[static_cast<std::size_t>(comm.rank())], Tensor(values.data(), DType::f32, {2, 4}));
  }

  testing::FakeNccl& nccl_ = testing::fake_nccl();
  std::array<Ops*, 4> ops_{};
};

void expect_all(const std::vector<std::string>& errors, const std::string& text) {
  for (const std::string& error : errors) EXPECT_NE(error.find(text), std::string::npos) << error;
}

TEST_F(NcclCommunicatorTest, WaitsForCallsThatAreInProgress) {
  nccl_.looks_until_ready = 20;
  const std::vector<std::string> errors = with_communicators(3, kOptions, [&](Communicator& comm, RankGroup&) {
    EXPECT_EQ(comm.size(), 3);
    for (int i = 0; i < 5; ++i) sum(comm);
    comm.barrier();
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  EXPECT_EQ(nccl_.calls, 15);
  EXPECT_EQ(nccl_.elements_summed, 3U * 5 * 8);
  EXPECT_EQ(nccl_.aborts, 3);  // each freed once
}

TEST_F(NcclCommunicatorTest, AnErrorInTheBackgroundEndsAllRanks) {
  const std::vector<std::string> errors = with_communicators(2, kOptions, [&](Communicator& comm, RankGroup& group) {
    sum(comm);
    if (group.leads()) nccl_.fails = true;
    for (int wait = 0; wait < 500; ++wait) {  // as a rank that waits for its GPU: only the watcher looks
      std::this_thread::sleep_for(milliseconds(10));
      group.require_alive();
    }
  });
  expect_all(errors, "remote process exited");
  EXPECT_EQ(nccl_.aborts, 2);
}

TEST_F(NcclCommunicatorTest, AnErrorDuringACallEndsAllRanks) {
  const std::vector<std::string> errors = with_communicators(2, kOptions, [&](Communicator& comm, RankGroup&) {
    nccl_.looks_until_ready = -1;
    nccl_.fails = true;
    sum(comm);
    ADD_FAILURE() << "the call went through";
  });
  expect_all(errors, "NCCL 0.0.0 on rank");
  EXPECT_EQ(nccl_.aborts, 2);
}

TEST_F(NcclCommunicatorTest, ACallThatNeverGetsReadyEndsAllRanksAfterTheWatchdogsTime) {
  RankGroupOptions options = kOptions;
  options.watchdog = milliseconds(400);
  const auto start = std::chrono::steady_clock::now();
  const std::vector<std::string> errors = with_communicators(2, options, [&](Communicator& comm, RankGroup&) {
    nccl_.looks_until_ready = -1;
    sum(comm);
  });
  const auto waited = std::chrono::steady_clock::now() - start;
  expect_all(errors, "no answer from the other ranks within watchdog_seconds");
  EXPECT_GE(waited, milliseconds(400));
  EXPECT_LE(waited, milliseconds(5'000));
}

TEST_F(NcclCommunicatorTest, AnInitThatFailsEndsAllRanksAndFreesWhatWasMade) {
  nccl_.fails = true;
  const std::vector<std::string> errors =
      with_communicators(2, kOptions, [](Communicator&, RankGroup&) { ADD_FAILURE() << "the communicator was made"; });
  expect_all(errors, "remote process exited");
  EXPECT_EQ(nccl_.aborts, 2);
}

// NCCL does not notice a peer that was killed; the heartbeats do, and the watcher aborts what waits on the GPU.
TEST_F(NcclCommunicatorTest, ARankThatIsGoneAbortsTheOthers) {
  const std::vector<std::string> errors = with_communicators(3, kOptions, [&](Communicator& comm, RankGroup& group) {
    sum(comm);
    if (group.rank() == 1) throw std::runtime_error("killed");
    while (nccl_.aborts < 2) std::this_thread::sleep_for(milliseconds(1));  // a stream that ends when its kernels are aborted
    sum(comm);
  });
  EXPECT_EQ(errors[1], "killed");
  expect_all({errors[0], errors[2]}, "rank 1: killed");
  EXPECT_EQ(nccl_.aborts, 3);
}

TEST_F(NcclCommunicatorTest, OneShotNeedsPeersThatReachEachOther) {
  const std::vector<std::string> errors = run_ranks(2, kOptions, [](RankGroup& group) {
    HostAllocator allocator;
    const std::unique_ptr<Ops> ops = make_reference_ops(&allocator);
    make_nccl_communicator(*ops, group, {.one_shot = true});
  });
  EXPECT_NE((errors[0] + errors[1]).find("use all_reduce='nccl'"), std::string::npos) << errors[0];
  EXPECT_EQ(nccl_.aborts, 2);
}

}  // namespace
}  // namespace gossamer::cuda
