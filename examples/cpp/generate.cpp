// Generates from token ids with the C++ API alone. There is no tokenizer in C++; the ids come from the model's own one.
//
//   generate <model directory> [--max-tokens N] [--temperature T] [--seed S] [--device NAME] ID [ID ...]
#include <chrono>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime.h"

namespace {

struct Arguments {
  std::string model;
  gossamer::RuntimeOptions options;
  gossamer::SamplingParams params;
  std::vector<std::int32_t> prompt;
};

Arguments parse(const std::vector<std::string>& words) {
  Arguments arguments;
  arguments.params.temperature = 0;
  arguments.params.max_tokens = 32;
  if (words.empty()) throw std::invalid_argument("usage: generate <model directory> [options] ID [ID ...]");
  arguments.model = words[0];
  for (std::size_t i = 1; i < words.size(); ++i) {
    const auto value = [&] { return i + 1 < words.size() ? words[++i] : throw std::invalid_argument(words[i] + " needs a value"); };
    if (words[i] == "--max-tokens") {
      arguments.params.max_tokens = std::stoll(value());
    } else if (words[i] == "--temperature") {
      arguments.params.temperature = std::stod(value());
    } else if (words[i] == "--seed") {
      arguments.params.seed = std::stoull(value());
    } else if (words[i] == "--device") {
      arguments.options.device = value();
    } else {
      arguments.prompt.push_back(static_cast<std::int32_t>(std::stol(words[i])));
    }
  }
  return arguments;
}

// Prints ids as they come.
void stream(gossamer::Runtime& runtime, const Arguments& arguments) {
  const gossamer::RequestId id = runtime.submit(arguments.prompt, arguments.params);
  while (!runtime.finished(id)) {
    for (const gossamer::SampleDelta& delta : runtime.wait(id, std::chrono::seconds(1))) {
      for (const std::int32_t token : delta.tokens) std::cout << token << ' ' << std::flush;
    }
  }
  std::cout << '\n';
  runtime.release(id);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Arguments arguments = parse({argv + 1, argv + argc});
    gossamer::Runtime runtime(arguments.model, arguments.options);
    const gossamer::RuntimeInfo info = runtime.info();
    std::cerr << info.architecture << ", " << info.num_parameters << " parameters, " << info.weight_bytes << " bytes, on " << info.device
              << '\n';
    stream(runtime, arguments);
    const gossamer::RuntimeStats stats = runtime.stats();
    std::cerr << "prefill: " << stats.prefill_tokens << " tokens in " << stats.prefill_seconds << " s; decode: " << stats.decode_tokens
              << " tokens in " << stats.decode_seconds << " s\n";
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}
