// A driver for compilers without libFuzzer: mutates the seeds blindly.
//   checkpoint_fuzz [iterations = 200000] [seed = 1]    mutate; a crash prints the case that made it
//   checkpoint_fuzz --write-seeds DIRECTORY             one file per seed, as a corpus for libFuzzer
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <string>

#include "checkpoint_fuzz.h"
#include "support/random.h"

namespace {

using gossamer::testing::Random;

void mutate(std::string& input, Random& random) {
  static const std::string kTokens[] = {"0",  "-1",      "9223372036854775807", "1e20", "null", "[]", "{}",
                                        "\"", "\\u0000", "[[[[[[[[[",           ",",    "}"};
  for (std::int64_t edits = 1 + random.below(4); edits > 0 && !input.empty(); --edits) {
    const auto at = static_cast<std::size_t>(random.below(static_cast<std::int64_t>(input.size())));
    switch (random.below(5)) {
      case 0: input[at] = static_cast<char>(random.next()); break;
      case 1: input[at] = static_cast<char>(input[at] ^ (1 << random.below(8))); break;
      case 2: input.erase(at, static_cast<std::size_t>(1 + random.below(16))); break;
      case 3: input.insert(at, kTokens[random.below(static_cast<std::int64_t>(std::size(kTokens)))]); break;
      default: input.insert(at, input.substr(at, static_cast<std::size_t>(1 + random.below(64)))); break;
    }
  }
}

int write_seeds(const std::string& directory) {
  int count = 0;
  for (const std::string& seed : gossamer::fuzz::seeds())
    std::ofstream(directory + "/seed-" + std::to_string(count++), std::ios::binary) << seed;
  std::cout << count << " seeds in " << directory << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--write-seeds") return write_seeds(argv[2]);
  const long iterations = argc > 1 ? std::atol(argv[1]) : 200000;
  Random random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  const std::vector<std::string> seeds = gossamer::fuzz::seeds();
  for (long i = 0; i < iterations; ++i) {
    std::string input = seeds[static_cast<std::size_t>(i) % seeds.size()];
    if (static_cast<std::size_t>(i) >= seeds.size()) mutate(input, random);
    try {
      LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
    } catch (const std::exception& error) {
      std::ofstream("crash-checkpoint", std::ios::binary) << input;
      std::cerr << "case " << i << " (written to crash-checkpoint): " << error.what() << "\n";
      return 1;
    }
  }
  std::cout << iterations << " cases, " << seeds.size() << " of them seeds: every one loads or gives a CheckpointError\n";
  return 0;
}
