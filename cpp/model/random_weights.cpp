// The half of WeightLoader that makes weights up.
#include <cmath>
#include <utility>

#include "model/weight_loader.h"

namespace gossamer {
namespace {

constexpr float kScale = 0.035F;  // a standard deviation of 0.02, as models are initialised

}  // namespace

WeightLoader::WeightLoader(const RandomWeights& weights, Ops& ops, Communicator& comm, ThreadPool& pool, const LoadOptions& options)
    : mode_(Mode::random), checkpoint_(nullptr), ops_(ops), comm_(comm), pool_(pool), options_(options), random_(weights) {}

RandomWeight WeightLoader::random_weight(std::int64_t rows, std::int64_t cols) {
  const std::uint64_t stream = num_random_++ * static_cast<std::uint64_t>(comm_.size()) + static_cast<std::uint64_t>(comm_.rank());
  return {.rows = rows, .cols = cols, .dtype = ops_.activation_dtype(), .scale = kScale, .seed = random_bits(random_.seed, stream)};
}

Linear WeightLoader::random_linear(const LinearSpec& spec, std::vector<std::string> names) {
  std::int64_t rows = 0;
  for (std::size_t i = 0; i < spec.modules.size(); ++i) rows += own_rows(spec, i).end - own_rows(spec, i).begin;
  RandomWeight wanted = random_weight(rows, spec.shard == Shard::cols ? share(spec.cols) : spec.cols);
  wanted.dtype = random_.values.value_or(wanted.dtype);
  wanted.is_sparse = random_.sparsity > 0;
  wanted.sparsity = random_.sparsity;
  std::unique_ptr<PackedWeight> weight = ops_.pack(wanted);
  count_resident(weight->nbytes());
  const std::int64_t elements = wanted.rows * wanted.cols;
  stats_.num_parameters += elements;
  if (wanted.is_sparse) {
    stats_.sparse_elements += elements;
    stats_.sparse_zeros += std::llround(wanted.sparsity * static_cast<double>(elements));
  }
  return Linear(std::move(weight), spec.bias ? constant(rows, 0.0F) : OwnedTensor(), spec.shard, std::move(names));
}

OwnedTensor WeightLoader::random_table(std::int64_t rows, std::int64_t cols) {
  stats_.num_parameters += rows * cols;
  stats_.table_bytes += rows * cols * static_cast<std::int64_t>(size_of(ops_.activation_dtype()));
  return to_device(make_random_dense(random_weight(rows, cols), host_, pool_).view);
}

Vocabulary WeightLoader::random_vocabulary(const LinearSpec& head, const ModelConfig& config) {
  const Range own = own_range(config.vocab_size, comm_.size());
  Vocabulary vocabulary;
  vocabulary.row_begin = own.begin;
  RandomWeight wanted = random_weight(own.end - own.begin, head.cols);
  if (!config.tie_word_embeddings) wanted.dtype = random_.values.value_or(wanted.dtype);
  std::unique_ptr<PackedWeight> weight = ops_.pack(wanted);
  count_resident(weight->nbytes());
  stats_.num_parameters += weight->rows() * weight->cols();
  if (config.tie_word_embeddings) vocabulary.table = weight->table();
  vocabulary.head = Linear(std::move(weight), {}, Shard::rows, {head.modules[0] + ".weight"});
  if (!vocabulary.table.defined()) {
    vocabulary.own_table = random_table(own.end - own.begin, head.cols);
    vocabulary.table = vocabulary.own_table.view;
  }
  return vocabulary;
}

}  // namespace gossamer
