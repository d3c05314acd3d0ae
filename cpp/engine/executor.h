// Executor: one rank's forward pass. Owns the KV cache and everything a step writes; all of it is allocated at load.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/memory.h"
#include "engine/step_channel.h"
#include "kv/kv_cache.h"
#include "model/model.h"

namespace gossamer {

struct ExecutorConfig {
  std::int64_t max_num_seqs = 0;
  std::int64_t max_num_batched_tokens = 0;
  std::int64_t max_model_len = 0;
  std::int64_t num_blocks = 0;
  std::int64_t block_size = 0;
  bool enforce_eager = false;  // decode steps are never recorded; the same bits
  bool runs_ahead = false;     // parts may end with a token of the last draw
  bool heads_in_step = false;  // padded decode steps end with the head of every row; the same bits
  RankGroup* group = nullptr;  // whose rank 0 this is: the others are told to do the same
};

class Executor {
 public:
  Executor(Ops& ops, Communicator& comm, const Model& model, const ExecutorConfig& config);
  // What it will allocate on the device besides the KV cache.
  static std::int64_t workspace_bytes(const Model& model, const ExecutorConfig& config);

  // Runs all layers over the parts' tokens; their keys and values go to the parts' blocks.
  void forward(std::span<const StepPart> parts);
  // f32 [rows, vocab] for up to max_logit_rows() tokens of the last forward(), by index. Scratch: valid until the next call.
  Tensor logits(std::span<const std::int32_t> rows);

  // Where a draw of so many rows leaves its tokens for the next forward().
  Tensor drawn(std::int64_t rows) const { return drawn_.view.rows(0, rows); }

  std::int64_t max_logit_rows() const { return max_logit_rows_; }
  std::int64_t kv_bytes() const { return kv_.nbytes(); }
  // Sees every linear's input from now on; null ends it.
  void set_observer(LinearObserver* observer) { context_.observer = observer; }

 private:
  bool is_recordable(std::span<const StepPart> parts) const;
  Batch upload_batch(std::span<const StepPart> parts, bool is_padded);
  void run_layers(const Batch& batch);
  std::span<std::int32_t> stage(std::int64_t count);
  std::span<const std::int32_t> padded(std::span<const std::int32_t> rows);

  Ops& ops_;
  const Model& model_;
  ExecutorConfig config_;
  std::optional<StepChannel> followers_;
  KvCache kv_;
  Arena arena_;
  ExecContext context_;
  std::int64_t max_logit_rows_;
  OwnedTensor logits_;                // f32 [max_logit_rows, vocab]
  OwnedTensor logit_rows_;            // i32 [max_logit_rows]
  std::vector<std::int32_t> rows_;    // their host copy
  OwnedTensor drawn_;                 // i32 [max_logit_rows]
  OwnedTensor device_inputs_;         // i32, the step's index tensors one after the other
  std::vector<std::int32_t> inputs_;  // their host copy
  std::size_t num_staged_ = 0;
  Tensor drawn_rows_;             // i32 [num_tokens] of the last forward, with runs_ahead: the row of the draw that a token is, or -1
  Tensor hidden_;                 // [num_tokens, hidden_size] of the last forward, in the arena
  std::int64_t padded_rows_ = 0;  // of the head after the last forward, however many are wanted; 0: as many as those
  bool has_logits_ = false;       // logits_ holds those of the last forward's tokens
};

}  // namespace gossamer
