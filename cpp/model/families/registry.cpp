#include <array>

#include "model/families/family.h"

namespace gossamer {
namespace {

constexpr std::array<const Family*, 5> kFamilies{&kLlama, &kMistral, &kOpt, &kQwen2, &kQwen3};

}  // namespace

std::span<const Family* const> families() { return kFamilies; }

const Family* find_family(std::string_view architecture) {
  for (const Family* family : families()) {
    if (family->architecture == architecture) return family;
  }
  return nullptr;
}

}  // namespace gossamer
