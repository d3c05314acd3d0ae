// RankGroups as threads of one process, connected by socket pairs.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "comm/rank_group.h"

namespace gossamer::testing {

inline std::vector<RankLinks> linked_ranks(int size) {
  std::vector<RankLinks> all(static_cast<std::size_t>(size));
  all[0].control.resize(all.size());
  all[0].liveness.resize(all.size());
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    for (std::vector<Socket> RankLinks::* kind : {&RankLinks::control, &RankLinks::liveness}) {
      int ends[2] = {-1, -1};
      EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
      (all[0].*kind)[rank] = Socket(ends[0]);
      (all[rank].*kind).push_back(Socket(ends[1]));
    }
  }
  return all;
}

// Runs body once per rank, each on its own thread; ranks leave when it returns. What a rank throws is returned by rank, "" = nothing.
inline std::vector<std::string> run_ranks(int size, const RankGroupOptions& options, const std::function<void(RankGroup&)>& body) {
  std::vector<RankLinks> links = linked_ranks(size);
  std::vector<std::string> errors(links.size());
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      const auto i = static_cast<std::size_t>(rank);
      RankGroup group(rank, size, std::move(links[i]), options);
      try {
        body(group);
        group.barrier();
        group.leave();
      } catch (const std::exception& error) {
        errors[i] = error.what();
        group.fail("rank " + std::to_string(rank) + ": " + error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

}  // namespace gossamer::testing
