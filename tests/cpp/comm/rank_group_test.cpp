#include "comm/rank_group.h"

#include <gtest/gtest.h>

#include <atomic>

#include "comm/handshake.h"
#include "core/error.h"
#include "support/local_ranks.h"

namespace gossamer {
namespace {

using std::chrono::milliseconds;
using testing::run_ranks;

std::atomic<int> ended_processes = 0;
void note_end(const std::string&) { ++ended_processes; }

constexpr RankGroupOptions kOptions{.watchdog = milliseconds(10'000), .grace = milliseconds(1), .end_process = &note_end};

std::vector<std::byte> bytes_of(const std::string& text) {
  const auto* first = reinterpret_cast<const std::byte*>(text.data());
  return {first, first + text.size()};
}

void expect_no_errors(const std::vector<std::string>& errors) {
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(RankGroup, BroadcastsGathersAndFindsTheMinimum) {
  for (const int size : {2, 3, 5}) {
    expect_no_errors(run_ranks(size, kOptions, [size](RankGroup& group) {
      std::vector<std::byte> message = bytes_of(group.leads() ? "from 0" : "");
      group.broadcast(message);
      EXPECT_EQ(message, bytes_of("from 0"));
      const auto all = group.gather(bytes_of(std::string(static_cast<std::size_t>(group.rank()), 'x')));
      EXPECT_EQ(std::ssize(all), group.leads() ? size : 0);
      for (std::size_t rank = 0; rank < all.size(); ++rank) EXPECT_EQ(all[rank].size(), rank);
      EXPECT_EQ(group.minimum(100 - group.rank()), 100 - (size - 1));
    }));
  }
}

TEST(RankGroup, AFailureReachesAllWithItsCause) {
  const int before = ended_processes;
  const std::vector<std::string> errors = run_ranks(3, kOptions, [](RankGroup& group) {
    if (group.rank() == 1) throw std::runtime_error("no more paper");
    std::vector<std::byte> never;
    if (group.rank() == 2) group.broadcast(never);  // waits for rank 0, which waits for rank 1
    group.gather({});
  });
  EXPECT_EQ(errors[1], "no more paper");
  EXPECT_NE(errors[0].find("rank 1: no more paper"), std::string::npos) << errors[0];
  EXPECT_NE(errors[2].find("rank 1: no more paper"), std::string::npos) << errors[2];
  for (int wait = 0; wait < 500 && ended_processes < before + 3; ++wait) std::this_thread::sleep_for(milliseconds(10));
  EXPECT_EQ(ended_processes, before + 3);  // each process would be ended after the grace
}

TEST(RankGroup, ADeadRankEndsTheGroup) {
  std::vector<RankLinks> links = testing::linked_ranks(2);
  RankGroup group(0, 2, std::move(links[0]), kOptions);
  EXPECT_NO_THROW(group.require_alive());
  links.pop_back();  // as the system closes the connections of a process that was killed
  try {
    group.gather({});
    FAIL() << "gathered from a dead rank";
  } catch (const EngineDeadError& error) {
    EXPECT_NE(std::string(error.what()).find("rank 1 has ended unexpectedly"), std::string::npos) << error.what();
  }
}

TEST(RankGroup, ASilentRankEndsTheGroupAfterTheWatchdogsTime) {
  const RankGroupOptions options{.watchdog = milliseconds(300), .grace = milliseconds(1), .end_process = &note_end};
  std::vector<RankLinks> links = testing::linked_ranks(2);  // rank 1 is there but never says anything, like a stopped process
  RankGroup group(0, 2, std::move(links[0]), options);
  const auto start = std::chrono::steady_clock::now();
  try {
    group.gather({});
    FAIL() << "gathered from a silent rank";
  } catch (const EngineDeadError& error) {
    EXPECT_NE(std::string(error.what()).find("rank 1 has been silent"), std::string::npos) << error.what();
  }
  const auto waited = std::chrono::steady_clock::now() - start;
  EXPECT_GE(waited, milliseconds(250));
  EXPECT_LE(waited, milliseconds(5'000));
}

TEST(RankGroup, AStepThatHangsEndsTheGroup) {
  const RankGroupOptions options{.watchdog = milliseconds(300), .grace = milliseconds(1), .end_process = &note_end};
  const std::vector<std::string> errors = run_ranks(2, options, [](RankGroup& group) {
    {
      const RankGroup::StepWatch short_step(&group);
    }
    std::this_thread::sleep_for(milliseconds(500));  // between steps: idle
    group.require_alive();
    group.barrier();
    const RankGroup::StepWatch hung(group.rank() == 1 ? &group : nullptr);
    for (int wait = 0; wait < 500; ++wait) {
      std::this_thread::sleep_for(milliseconds(10));
      group.require_alive();
    }
  });
  for (const std::string& error : errors) EXPECT_NE(error.find("rank 1 has been in one step"), std::string::npos) << error;
}

TEST(RankGroup, RanksThatOnlyWaitAreNotSilent) {
  const RankGroupOptions options{.watchdog = milliseconds(300), .grace = milliseconds(1), .end_process = &note_end};
  expect_no_errors(run_ranks(2, options, [](RankGroup& group) {
    if (group.leads()) std::this_thread::sleep_for(milliseconds(1'000));
  }));
}

TEST(Handshake, EqualFieldsAgree) {
  expect_no_errors(run_ranks(3, kOptions, [](RankGroup& group) { require_agreement(group, {{"build", "1"}, {"dtype", "float32"}}); }));
}

TEST(Handshake, NamesTheRankAndTheFieldThatDiffer) {
  const std::vector<std::string> errors = run_ranks(3, kOptions, [](RankGroup& group) {
    try {
      require_agreement(group, {{"build", "1"}, {"dtype", group.rank() == 2 ? "float16" : "float32"}});
      ADD_FAILURE() << "agreed";
    } catch (const InvalidArgument& error) {
      EXPECT_NE(std::string(error.what()).find("rank 2 differs from rank 0 in dtype: it has float16, rank 0 has float32"),
                std::string::npos)
          << error.what();
    }
  });
  expect_no_errors(errors);
}

TEST(Handshake, NamesTheRanksThatShareWhatEachMustHave) {
  const std::vector<std::string> own{"a", "", "b", "", "b"};  // an empty one is no one's
  expect_no_errors(run_ranks(5, kOptions, [&own](RankGroup& group) {
    try {
      require_distinct(group, "GPU", own[static_cast<std::size_t>(group.rank())]);
      ADD_FAILURE() << "two have one GPU";
    } catch (const DeviceError& error) {
      EXPECT_NE(std::string(error.what()).find("ranks 2 and 4 have the same GPU, b"), std::string::npos) << error.what();
    }
  }));
  expect_no_errors(
      run_ranks(4, kOptions, [&own](RankGroup& group) { require_distinct(group, "GPU", own[static_cast<std::size_t>(group.rank())]); }));
}

TEST(Handshake, OtherFieldsAreAnotherBuild) {
  for (const bool more : {false, true}) {
    expect_no_errors(run_ranks(2, kOptions, [more](RankGroup& group) {
      Fields fields{{"build", "1"}};
      if (more == group.leads()) fields.emplace_back("new field", "1");
      EXPECT_THROW(require_agreement(group, fields), InvalidArgument);
    }));
  }
}

TEST(Handshake, ARankThatFailedKeepsItsErrorAndTheOthersHearOfIt) {
  expect_no_errors(run_ranks(2, kOptions, [](RankGroup& group) {
    std::exception_ptr failure;
    if (group.rank() == 1) failure = std::make_exception_ptr(CheckpointError("shard 3 is missing"));
    try {
      require_agreement(group, {{"build", "1"}}, failure);
      ADD_FAILURE() << "agreed";
    } catch (const CheckpointError&) {
      EXPECT_EQ(group.rank(), 1);
    } catch (const DeviceError& error) {
      EXPECT_EQ(group.rank(), 0);
      EXPECT_NE(std::string(error.what()).find("rank 1 could not start: shard 3 is missing"), std::string::npos) << error.what();
    }
  }));
}

}  // namespace
}  // namespace gossamer
