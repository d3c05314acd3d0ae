#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

#include "sparse/sparse_weight.h"
#include "support/random.h"

namespace gossamer {
namespace {

struct Damage {
  const char* name;
  std::function<void(OwnedSparseWeight&)> apply;
  const char* expected_text;
};

std::uint8_t* mask_row(OwnedSparseWeight& w, std::int64_t r) { return w.view.mask.row<std::uint8_t>(r); }
std::int64_t* offsets(OwnedSparseWeight& w) { return w.view.row_offsets.data<std::int64_t>(); }

// Every row of the 5x13 weight under test holds its even columns, so each fault below changes something.
const Damage kDamages[] = {
    {"a mask bit dropped", [](auto& w) { mask_row(w, 2)[0] &= 0xFE; }, "row 2"},
    {"a mask bit added", [](auto& w) { mask_row(w, 2)[0] |= 0x02; }, "row 2"},
    {"two mask errors that cancel across rows",
     [](auto& w) {
       mask_row(w, 1)[0] &= 0xFE;
       mask_row(w, 3)[0] |= 0x02;
     },
     "row 1"},
    {"a pad bit set", [](auto& w) { mask_row(w, 4)[1] |= 0x80; }, "pad bits"},
    {"a pad bit in place of a mask bit",
     [](auto& w) {
       mask_row(w, 0)[1] = 0x20;
       mask_row(w, 0)[0] &= 0xFE;
     },
     "pad bits"},
    {"offsets start at 1", [](auto& w) { offsets(w)[0] = 1; }, "start at 0"},
    {"offsets start below 0", [](auto& w) { offsets(w)[0] = -1; }, "start at 0"},
    {"an offset too large", [](auto& w) { ++offsets(w)[3]; }, "row_offsets[3]"},
    {"an offset decreases", [](auto& w) { offsets(w)[3] = 1; }, "row_offsets[3]"},
    {"an offset at the end of the range", [](auto& w) { offsets(w)[2] = std::numeric_limits<std::int64_t>::max(); }, "row_offsets[2]"},
    {"an offset below zero", [](auto& w) { offsets(w)[2] = std::numeric_limits<std::int64_t>::min(); }, "row_offsets[2]"},
    {"a value missing at the end", [](auto& w) { w.view.values = w.view.values.slice(0, 0, w.view.nnz() - 1); },
     "end at the number of values"},
    {"values of an integer dtype", [](auto& w) { w.view.values = w.row_offsets.view(DType::i64, {1}); }, "f32, f16 or bf16"},
    {"no values", [](auto& w) { w.view.values = Tensor(); }, "undefined"},
    {"no mask", [](auto& w) { w.view.mask = Tensor(); }, "bitmask"},
    {"a mask too narrow", [](auto& w) { w.view.mask = w.mask.view(DType::u8, {5, 1}); }, "u8[5, 2]"},
    {"a mask of another dtype", [](auto& w) { w.view.mask = w.values.view(DType::f16, {5, 2}); }, "u8[5, 2]"},
    {"offsets too short", [](auto& w) { w.view.row_offsets = w.row_offsets.view(DType::i64, {5}); }, "i64[6]"},
    {"offsets of another dtype", [](auto& w) { w.view.row_offsets = w.row_offsets.view(DType::i32, {6}); }, "i64[6]"},
    {"a negative size", [](auto& w) { w.view.rows = -5; }, "negative"},
    {"values of rank two", [](auto& w) { w.view.values = w.view.values.reshape({w.view.nnz(), 1}); }, "values"},
};

OwnedSparseWeight even_columns(Allocator& allocator) {
  const OwnedTensor dense(allocator, DType::f32, {5, 13});
  for (std::int64_t r = 0; r < 5; ++r) {
    for (std::int64_t c = 0; c < 13; ++c) dense.view.row<float>(r)[c] = c % 2 == 0 ? static_cast<float>(13 * r + c + 1) : 0.0F;
  }
  return sparse_from_dense(dense.view, allocator);
}

TEST(Validate, NamesEachFault) {
  HostAllocator allocator;
  for (const Damage& damage : kDamages) {
    SCOPED_TRACE(damage.name);
    OwnedSparseWeight weight = even_columns(allocator);
    ASSERT_NO_THROW(validate(weight.view, "layer.weight"));
    damage.apply(weight);
    try {
      validate(weight.view, "layer.weight");
      ADD_FAILURE() << "accepted";
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find(damage.expected_text), std::string::npos) << error.what();
      EXPECT_EQ(error.fault().tensor, "layer.weight");
      EXPECT_FALSE(error.fault().field.empty());
    }
  }
}

// A sum over the whole mask cannot see a bit that moved between rows; a check per row sees every such pair.
TEST(Validate, FindsEveryFlippedMaskBitAndEveryMovedOne) {
  HostAllocator allocator;
  testing::Random random(8);
  const OwnedTensor dense = testing::random_matrix(allocator, DType::f16, 4, 21, 0.5, random);
  OwnedSparseWeight weight = sparse_from_dense(dense.view, allocator);
  auto* mask = static_cast<std::uint8_t*>(weight.mask.data());
  const auto flip = [mask](std::size_t bit) { mask[bit / 8] = static_cast<std::uint8_t>(mask[bit / 8] ^ (1U << (bit % 8))); };
  const std::size_t bits = weight.mask.bytes() * 8;
  const std::size_t row_bits = static_cast<std::size_t>(weight.view.mask_stride()) * 8;
  for (std::size_t i = 0; i < bits; ++i) {
    flip(i);
    ASSERT_THROW(validate(weight.view, "w"), CheckpointError) << i;
    for (std::size_t j = (i / row_bits + 1) * row_bits; j < bits; ++j) {  // any second flip in a later row
      flip(j);
      ASSERT_THROW(validate(weight.view, "w"), CheckpointError) << i << ", " << j;
      flip(j);
    }
    flip(i);
  }
  EXPECT_NO_THROW(validate(weight.view, "w"));
}

TEST(Validate, EscapesTheName) {
  HostAllocator allocator;
  OwnedSparseWeight weight = even_columns(allocator);
  offsets(weight)[0] = 1;
  try {
    validate(weight.view, "a\nb");
    FAIL();
  } catch (const CheckpointError& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
  }
}

}  // namespace
}  // namespace gossamer
