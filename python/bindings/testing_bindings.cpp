// Scheduler, block manager, sampler and random numbers, for property tests.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "core/error.h"
#include "cpu/cpu_ops.h"
#include "engine/scheduler.h"
#include "kv/block_manager.h"
#include "ops/sampling.h"

namespace gossamer::python {
namespace {

std::vector<std::int32_t> table(const BlockManager& manager, SequenceId id) {
  const auto blocks = manager.table(id);
  return {blocks.begin(), blocks.end()};
}

void bind_block_manager(nb::module_& module) {
  nb::class_<BlockManager>(module, "BlockManager")
      .def(nb::init<std::int64_t, std::int64_t>(), nb::arg("num_blocks"), nb::arg("block_size"))
      .def_prop_ro("num_blocks", &BlockManager::num_blocks)
      .def_prop_ro("num_free", &BlockManager::num_free)
      .def("reserve", &BlockManager::reserve, nb::arg("sequence"), nb::arg("num_tokens"))
      .def("release", &BlockManager::release, nb::arg("sequence"))
      .def("table", &table, nb::arg("sequence"))
      .def("slot", &BlockManager::slot, nb::arg("sequence"), nb::arg("position"))
      .def("check_invariants", &BlockManager::check_invariants);
}

// (chunks as (id, begin, count, samples), preempted ids)
nb::tuple schedule(Scheduler& scheduler) {
  const Schedule& plan = scheduler.schedule();
  nb::list chunks;
  for (const Chunk& chunk : plan.chunks) chunks.append(nb::make_tuple(chunk.id, chunk.begin, chunk.count, chunk.samples));
  return nb::make_tuple(chunks, plan.preempted);
}

std::vector<SequenceId> commit(Scheduler& scheduler, const std::vector<SequenceId>& stopped) { return scheduler.commit(stopped); }

void bind_scheduler(nb::module_& module) {
  nb::class_<Scheduler>(module, "Scheduler")
      .def(
          "__init__",
          [](Scheduler* self, std::int64_t num_blocks, std::int64_t block_size, std::int64_t max_num_seqs,
             std::int64_t max_num_batched_tokens) { new (self) Scheduler({num_blocks, block_size, max_num_seqs, max_num_batched_tokens}); },
          nb::arg("num_blocks"), nb::arg("block_size"), nb::arg("max_num_seqs"), nb::arg("max_num_batched_tokens"))
      .def("add", &Scheduler::add, nb::arg("id"), nb::arg("prompt_len"), nb::arg("max_tokens"))
      .def("schedule", &schedule, "(chunks as (id, begin, count, samples), preempted ids)")
      .def("commit", &commit, nb::arg("stopped") = std::vector<SequenceId>(), "The ids that are over now.")
      .def("abort", &Scheduler::abort, nb::arg("id"))
      .def(
          "table", [](const Scheduler& scheduler, SequenceId id) { return table(scheduler.blocks(), id); }, nb::arg("id"))
      .def_prop_ro("has_work", &Scheduler::has_work)
      .def_prop_ro("num_running", &Scheduler::num_running)
      .def_prop_ro("num_waiting", &Scheduler::num_waiting)
      .def_prop_ro("num_preemptions", &Scheduler::num_preemptions)
      .def_prop_ro("num_free_blocks", [](const Scheduler& scheduler) { return scheduler.blocks().num_free(); })
      .def("check_invariants", &Scheduler::check_invariants);
}

// One SampleRow from keyword arguments' dict.
SampleRow row_from(const nb::dict& fields) {
  SampleRow row;
  for (const auto& [key, value] : fields) {
    const auto name = nb::cast<std::string>(key);
    if (name == "temperature")
      row.temperature = nb::cast<float>(value);
    else if (name == "top_k")
      row.top_k = nb::cast<std::int32_t>(value);
    else if (name == "top_p")
      row.top_p = nb::cast<float>(value);
    else if (name == "min_p")
      row.min_p = nb::cast<float>(value);
    else if (name == "repetition_penalty")
      row.repetition_penalty = nb::cast<float>(value);
    else if (name == "presence_penalty")
      row.presence_penalty = nb::cast<float>(value);
    else if (name == "frequency_penalty")
      row.frequency_penalty = nb::cast<float>(value);
    else if (name == "seed")
      row.seed = nb::cast<std::uint64_t>(value);
    else if (name == "sample_index")
      row.sample_index = nb::cast<std::uint32_t>(value);
    else if (name == "position")
      row.position = nb::cast<std::uint32_t>(value);
    else if (name == "num_logprobs")
      row.num_logprobs = nb::cast<std::int32_t>(value);
    else if (name == "target")
      row.target = nb::cast<std::int32_t>(value);
    else
      throw InvalidArgument("unknown field of a sample row: " + printable(name));
  }
  return row;
}

using Adjustment = std::tuple<std::int32_t, std::int32_t, std::int32_t, bool, float>;  // the members of TokenAdjustment, in order

nb::tuple sample(const HostArray& logits, const std::vector<nb::dict>& rows, const std::vector<Adjustment>& adjustments,
                 const std::string& backend, std::int32_t max_logprobs) {
  require_dtype(logits, DType::f32, "logits");
  require(logits.ndim() == 2 && logits.shape(0) == rows.size(), "logits must be [rows, vocab_size] with one dict per row");
  const auto num_rows = static_cast<std::int64_t>(rows.size());
  const auto vocab_size = static_cast<std::int64_t>(logits.shape(1));
  const std::unique_ptr<Ops> ops = backend == "reference" ? make_reference_ops() : make_cpu_ops();
  OwnedTensor scratch(ops->allocator(), DType::f32, {num_rows, vocab_size});
  ops->upload(scratch.view, Tensor(const_cast<void*>(logits.data()), DType::f32, {num_rows, vocab_size}));

  std::vector<SampleRow> sample_rows;
  for (const nb::dict& fields : rows) sample_rows.push_back(row_from(fields));
  std::vector<TokenAdjustment> sample_adjustments;
  for (const auto& [row, token, count, seen, bias] : adjustments) sample_adjustments.push_back({row, token, count, seen, bias});
  std::vector<std::int32_t> tokens(rows.size()), ranks(rows.size());
  std::vector<float> logprobs(rows.size());
  std::vector<std::int32_t> top_tokens(rows.size() * static_cast<std::size_t>(max_logprobs), -1);
  std::vector<float> top_logprobs(top_tokens.size());
  ops->sample(scratch.view, {sample_rows, sample_adjustments}, {tokens, logprobs, ranks, top_tokens, top_logprobs, max_logprobs});
  return nb::make_tuple(tokens, logprobs, ranks, top_tokens, top_logprobs);
}

}  // namespace

void bind_testing(nb::module_& module) {
  module.def("philox_uniform", &philox_uniform, nb::arg("seed"), nb::arg("sample_index"), nb::arg("position"));
  module.def("sample", &sample, nb::arg("logits").noconvert(), nb::arg("rows"), nb::arg("adjustments") = std::vector<Adjustment>(),
             nb::arg("backend") = "cpu", nb::arg("max_logprobs") = 0,
             "(tokens, logprobs, ranks, top_tokens, top_logprobs) for f32 logits [rows, vocab]; a row is a dict of SampleRow's fields, an "
             "adjustment (row, token, output_count, seen, bias).");
  bind_block_manager(module);
  bind_scheduler(module);
}

}  // namespace gossamer::python
