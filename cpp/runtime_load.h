// Everything that Runtime does before its engine runs: check the options, find the device, read the model, size the KV cache.
#pragma once

#include <memory>
#include <string>

#include "core/memory.h"
#include "engine/engine.h"
#include "runtime.h"
#include "runtime_ranks.h"

namespace gossamer {

// In the order of construction: each member uses those above it.
struct LoadedModel {
  std::unique_ptr<Ranks> ranks;  // null = alone
  std::unique_ptr<Ops> ops;
  std::unique_ptr<Communicator> comm;
  std::unique_ptr<Model> model;
  EngineConfig config;
  RuntimeInfo info;
};

// Throws InvalidArgument naming the option and its range.
void validate(const RuntimeOptions& options);
LoadedModel load(const std::string& model_path, const RuntimeOptions& options, Allocator& allocator);

}  // namespace gossamer
