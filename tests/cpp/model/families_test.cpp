// Every family's forward pass on the reference backend: what must not depend on chunking, company or the split over ranks.
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "support/local_communicator.h"
#include "support/tiny_model.h"

namespace gossamer {
namespace {

using namespace gossamer::testing;

constexpr std::int64_t kTokens = 19;

std::vector<std::string> variants() {
  std::vector<std::string> names;
  for (const auto& [name, config] : tiny_configs()) names.push_back(name);
  return names;
}

class Family : public ::testing::TestWithParam<std::string> {
 protected:
  Family() : ops_(make_reference_ops()), comm_(make_single_communicator()) {}
  Session session(const Files& files) { return Session(open_checkpoint(files), *ops_, *comm_); }

  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Communicator> comm_;
};

TEST_P(Family, LogitsAreFiniteAndOfEveryToken) {
  const Files files = write_checkpoint(tiny_model(GetParam()));
  Session one = session(files);
  const std::vector<float> logits = one.run({random_tokens(kTokens, 1)}, {{0, 0, kTokens}});
  ASSERT_EQ(logits.size(), static_cast<std::size_t>(kTokens * 48));
  for (const float logit : logits) ASSERT_TRUE(std::isfinite(logit));
  EXPECT_GT(std::set<float>(logits.begin(), logits.end()).size(), logits.size() / 2) << "the model is degenerate";
}

TEST_P(Family, ChunksGiveTheSameBits) {
  const Files files = write_checkpoint(tiny_model(GetParam(), 0.6));
  const auto tokens = random_tokens(kTokens, 2);
  Session whole = session(files);
  const std::vector<float> expected = whole.run({tokens}, {{0, 0, kTokens}});
  for (const std::int64_t chunk : {1, 4, 7}) {
    Session chunked = session(files);
    std::vector<float> actual;
    for (std::int64_t begin = 0; begin < kTokens; begin += chunk) {
      const std::vector<float> part = chunked.run({tokens}, {{0, begin, std::min(begin + chunk, kTokens)}});
      actual.insert(actual.end(), part.begin(), part.end());
    }
    EXPECT_EQ(actual, expected) << "chunks of " << chunk;
  }
}

TEST_P(Family, CompanyChangesNoBit) {
  const Files files = write_checkpoint(tiny_model(GetParam(), 0.6));
  const std::vector<std::vector<std::int32_t>> sequences{random_tokens(11, 3), random_tokens(kTokens, 4), random_tokens(3, 5)};
  Session together = session(files);
  together.run(sequences, {{0, 0, 8}, {1, 0, 5}});
  const std::vector<float> batch = together.run(sequences, {{2, 0, 3}, {1, 5, kTokens}, {0, 8, 11}});
  std::vector<float> alone;
  for (const Piece& piece : std::vector<Piece>{{2, 0, 3}, {1, 5, kTokens}, {0, 8, 11}}) {
    Session one = session(files);
    if (piece.begin > 0) one.run(sequences, {{piece.sequence, 0, piece.begin}});
    const std::vector<float> part = one.run(sequences, {piece});
    alone.insert(alone.end(), part.begin(), part.end());
  }
  EXPECT_EQ(batch, alone);
}

TEST_P(Family, ArenaBoundIsExact) {
  const Files files = write_checkpoint(tiny_model(GetParam()));
  Session one = session(files);
  for (const std::int64_t n : {std::int64_t{1}, std::int64_t{7}, kTokens}) {
    one.run({random_tokens(kTokens, 6)}, {{0, 0, n}});
    EXPECT_EQ(one.arena_use().peak, one.arena_use().capacity) << n << " tokens";
    EXPECT_EQ(one.arena_use().used_after, 0U);
  }
}

TEST_P(Family, HalvesFitWhatTheyStore) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    TinyModel model = tiny_model(GetParam(), 0.6, dtype);
    const Files halves = write_checkpoint(model);
    for (auto& [name, tensor] : model.tensors) {
      for (float& value : tensor.values) value = round_to(dtype, value);
      tensor.dtype = DType::f32;
    }
    const Files wide = write_checkpoint(model);
    const auto tokens = random_tokens(kTokens, 7);
    EXPECT_EQ(session(halves).run({tokens}, {{0, 0, kTokens}}), session(wide).run({tokens}, {{0, 0, kTokens}})) << name_of(dtype);
  }
}

// A mask is data: the same zeros stored densely give the same logits; and one sparse part among dense ones makes a sparse product.
TEST_P(Family, EncodingsMeanTheSame) {
  TinyModel model = tiny_model(GetParam(), 0.5);
  const Files sparse = write_checkpoint(model);
  bool keep = false;
  for (auto& [name, tensor] : model.tensors) tensor.sparse = tensor.sparse && (keep = !keep);
  const Files mixed = write_checkpoint(model);
  for (auto& [name, tensor] : model.tensors) tensor.sparse = false;
  const Files dense = write_checkpoint(model);
  const auto tokens = random_tokens(kTokens, 8);
  const std::vector<float> expected = session(dense).run({tokens}, {{0, 0, kTokens}});
  for (const Files* files : {&sparse, &mixed}) {
    const std::vector<float> actual = session(*files).run({tokens}, {{0, 0, kTokens}});
    for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(actual[i], expected[i], 1e-4) << i;
  }
}

// Four ranks share two key and value heads, so that each is held twice. What is whole on every rank (norms, OPT's positions and
// projections) is a large part of so small a model.
TEST_P(Family, RanksAgreeWithOne) {
  for (const auto& [size, max_share] : {std::pair{2, 0.7}, {4, 0.5}}) {
    for (const double density : {1.0, 0.5}) {
      const Files files = write_checkpoint(tiny_model(GetParam(), density));
      const auto tokens = random_tokens(kTokens, 9);
      Session whole = session(files);
      const std::vector<float> expected = whole.run({tokens}, {{0, 0, kTokens}});
      std::vector<std::vector<float>> actual(static_cast<std::size_t>(size));
      std::vector<std::int64_t> bytes(static_cast<std::size_t>(size));
      LocalGroup(size).run([&](Communicator& comm) {
        const auto ops = make_reference_ops();
        Session rank(open_checkpoint(files), *ops, comm);
        const auto me = static_cast<std::size_t>(comm.rank());
        const std::vector<float> first = rank.run({tokens}, {{0, 0, 8}});
        const std::vector<float> second = rank.run({tokens}, {{0, 8, kTokens}});
        actual[me] = first;
        actual[me].insert(actual[me].end(), second.begin(), second.end());
        bytes[me] = rank.model().stats().weight_bytes;
        check(rank.arena_use().peak == rank.arena_use().capacity, "the arena's bound is not exact on a rank");
      });
      for (const std::vector<float>& logits : actual) EXPECT_EQ(logits, actual[0]);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(actual[0][i], expected[i], 2e-4) << i << " at density " << density << " on " << size << " ranks";
      }
      const double share = static_cast<double>(bytes[0]) / static_cast<double>(whole.model().stats().weight_bytes);
      EXPECT_LT(share, max_share);
      EXPECT_GT(share, 0.8 / size);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, Family, ::testing::ValuesIn(variants()), [](const auto& one) { return one.param; });

// One changed field of the configuration must show in the logits: a feature that is read and then ignored would not.
TEST(FamilyFeatures, EveryFeatureMatters) {
  const auto ops = make_reference_ops();
  const auto comm = make_single_communicator();
  const auto largest_change = [&](const char* variant, const char* field, json value) {
    TinyModel model = tiny_model(variant);
    const auto tokens = random_tokens(kTokens, 10);
    const Files before = write_checkpoint(model);
    model.config[field] = std::move(value);
    const Files after = write_checkpoint(model);
    const std::vector<float> a = Session(open_checkpoint(before), *ops, *comm).run({tokens}, {{0, 0, kTokens}});
    const std::vector<float> b = Session(open_checkpoint(after), *ops, *comm).run({tokens}, {{0, 0, kTokens}});
    float change = 0;
    for (std::size_t i = 0; i < a.size(); ++i) change = std::max(change, std::abs(a[i] - b[i]));
    return change;
  };
  constexpr float kVisible = 1e-2F;
  EXPECT_GT(largest_change("llama", "rope_theta", 1000.0), kVisible);
  EXPECT_GT(largest_change("llama", "rms_norm_eps", 0.05), kVisible);
  EXPECT_GT(largest_change("llama", "hidden_act", "gelu"), kVisible);
  EXPECT_GT(largest_change("llama", "rope_scaling", {{"type", "linear"}, {"factor", 2.0}}), kVisible);
  EXPECT_GT(largest_change("llama", "rope_scaling", {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 16}}),
            kVisible);
  EXPECT_GT(largest_change("llama", "rope_scaling",
                           {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 16}}),
            kVisible);
  EXPECT_GT(largest_change("mistral", "sliding_window", nullptr), kVisible);
  EXPECT_GT(largest_change("mistral", "sliding_window", 6), kVisible);
  EXPECT_GT(largest_change("qwen2", "max_window_layers", 2), kVisible);
  EXPECT_GT(largest_change("opt", "activation_function", "gelu"), kVisible);
  // Up to max_position_embeddings, dynamic scaling changes nothing but roundings.
  EXPECT_LT(largest_change("llama", "rope_scaling", {{"type", "dynamic"}, {"factor", 4.0}}), 1e-4F);
}

}  // namespace
}  // namespace gossamer
