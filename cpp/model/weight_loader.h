// WeightLoader: turns logical tensors of a checkpoint into packed weights of this rank. A family's build runs twice: first with a planning
// loader, which notes what is asked for and reads nothing, then, when the checkpoint was found to hold exactly that, for real.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "model/blocks.h"
#include "model/linear.h"
#include "model/weight_part.h"

namespace gossamer {

struct LinearSpec {
  std::vector<std::string> modules;  // "model.layers.0.self_attn.q_proj", ...: stacked by rows into one product
  std::vector<std::int64_t> rows;    // output features of each
  std::int64_t cols = 0;             // input features
  bool bias = false;                 // every module has a .bias
  Shard shard = Shard::whole;
  // Into how many equal parts the ranks cut each module's rows; empty = one part per rank. With fewer parts than ranks, neighbouring ranks
  // hold the same part: that is how key and value heads are replicated.
  std::vector<std::int64_t> parts = {};
};

class WeightLoader {
 public:
  enum class Mode { plan, load, random };
  WeightLoader(Mode mode, const Checkpoint& checkpoint, Ops& ops, Communicator& comm, ThreadPool& pool, const LoadOptions& options);
  // Reads nothing: weights are random (random_weights.cpp).
  WeightLoader(const RandomWeights& weights, Ops& ops, Communicator& comm, ThreadPool& pool, const LoadOptions& options);

  Linear linear(const LinearSpec& spec);
  // A norm's weight or a bias, in the activation dtype.
  OwnedTensor vector(const std::string& name, std::int64_t size);
  // One value repeated, for norms without parameters.
  OwnedTensor constant(std::int64_t size, float value);
  // A lookup table in its stored dtype, whole on every rank.
  OwnedTensor table(const std::string& name, std::int64_t rows, std::int64_t cols);
  // The token embedding and the head, cut by vocabulary. A tied head is the embedding.
  Vocabulary vocabulary(const std::string& embedding_module, const std::string& head_module, const ModelConfig& config);
  RopeTables rope(const ModelConfig& config);

  // What a rank holds of `total`; load_model has checked that it divides. kv_parts: into how many parts key and value heads are cut.
  std::int64_t num_ranks() const { return comm_.size(); }
  std::int64_t share(std::int64_t total) const { return total / comm_.size(); }
  std::int64_t kv_parts(const ModelConfig& config) const { return std::min<std::int64_t>(comm_.size(), config.num_kv_heads); }
  Ops& ops() const { return ops_; }

  const std::map<std::string, std::vector<std::int64_t>>& expected() const { return expected_; }
  const std::vector<TensorRows>& reads() const { return reads_; }  // what loading reads of the checkpoint, in this order
  const WeightStats& stats() const { return stats_; }

 private:
  struct Range {
    std::int64_t begin = 0;
    std::int64_t end = 0;
  };
  void expect(const std::string& name, std::vector<std::int64_t> shape);
  void plan_read(const std::string& name, Range rows);
  void plan_linear(const LinearSpec& spec, const std::vector<std::string>& names);
  bool planning() const { return mode_ == Mode::plan; }
  bool is_random() const { return mode_ == Mode::random; }
  RandomWeight random_weight(std::int64_t rows, std::int64_t cols);  // dense, of the next seed
  Linear random_linear(const LinearSpec& spec, std::vector<std::string> names);
  OwnedTensor random_table(std::int64_t rows, std::int64_t cols);
  Vocabulary random_vocabulary(const LinearSpec& head, const ModelConfig& config);
  bool is_selected(const std::string& name) const { return !options_.select || options_.select(name); }
  Range own_range(std::int64_t total, std::int64_t parts) const;
  Range own_rows(const LinearSpec& spec, std::size_t module) const;
  WeightPart read_rows(const std::string& name, Range rows);
  WeightPart read_cols(const std::string& name, Range cols);
  OwnedTensor read_plain(const std::string& name);  // dense, whatever its encoding
  OwnedTensor to_device(const Tensor& host);
  OwnedTensor bias(const LinearSpec& spec);
  void count_resident(std::int64_t bytes) { stats_.weight_bytes += bytes; }
  void report_progress(const TensorRecord& record);

  Mode mode_;
  const Checkpoint* checkpoint_;  // null: random
  Ops& ops_;
  Communicator& comm_;
  ThreadPool& pool_;
  const LoadOptions& options_;
  StagingAllocator host_;
  std::map<std::string, std::vector<std::int64_t>> expected_;
  std::vector<TensorRows> reads_;
  WeightStats stats_;
  RandomWeights random_{};
  std::uint64_t num_random_ = 0;
  std::int64_t bytes_done_ = 0;
  std::int64_t bytes_total_ = 0;
};

}  // namespace gossamer
