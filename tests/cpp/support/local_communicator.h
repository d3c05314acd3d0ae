// Ranks as threads of one process: each rank's Communicator shares a meeting point with the others.
#pragma once

#include <gtest/gtest.h>

#include <barrier>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "comm/communicator.h"

namespace gossamer::testing {

class LocalGroup {
 public:
  explicit LocalGroup(int size) : size_(size), parts_(static_cast<std::size_t>(size)), barrier_(size) {}

  // Runs body once per rank, each on a thread of its own; a rank that throws fails the test (and would hang the others: don't).
  void run(const std::function<void(Communicator&)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size_; ++rank) {
      threads.emplace_back([this, rank, &body] {
        Rank comm(*this, rank);
        try {
          body(comm);
        } catch (const std::exception& error) {
          ADD_FAILURE() << "rank " << rank << ": " << error.what();
          std::terminate();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  class Rank final : public Communicator {
   public:
    Rank(LocalGroup& group, int rank) : group_(group), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return group_.size_; }

    void all_reduce_sum(Ops&, const Tensor& x) override {
      std::vector<float> sum(static_cast<std::size_t>(x.numel()), 0.0F);
      exchange(x, [&](const Tensor& part, int) {
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += part.data<float>()[i];
      });
      std::memcpy(x.raw(), sum.data(), static_cast<std::size_t>(x.nbytes()));
    }
    void all_gather_last(Ops&, const Tensor& out, const Tensor& part) override {
      exchange(part, [&](const Tensor& theirs, int from) {
        const std::int64_t cols = theirs.size(1);
        for (std::int64_t i = 0; i < theirs.size(0); ++i) {
          std::memcpy(out.row<float>(i) + from * cols, theirs.row<float>(i), static_cast<std::size_t>(cols) * sizeof(float));
        }
      });
    }
    void broadcast(Ops&, const Tensor& x, int root) override {
      exchange(x, [&](const Tensor& theirs, int from) {
        if (from == root && rank_ != root) std::memcpy(x.raw(), theirs.raw(), static_cast<std::size_t>(x.nbytes()));
      });
    }
    void barrier() override { group_.barrier_.arrive_and_wait(); }

   private:
    // Shows x to the others, visits every rank's tensor in rank order, and holds x still until all have looked.
    void exchange(const Tensor& x, const std::function<void(const Tensor&, int)>& visit) {
      group_.parts_[static_cast<std::size_t>(rank_)] = x;
      barrier();
      for (int from = 0; from < group_.size_; ++from) visit(group_.parts_[static_cast<std::size_t>(from)], from);
      barrier();
    }

    LocalGroup& group_;
    int rank_;
  };

  int size_;
  std::vector<Tensor> parts_;
  std::barrier<> barrier_;
};

}  // namespace gossamer::testing
