"""What a request returns: vLLM's names and meanings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Calibration",
    "CompletionOutput",
    "FinishReason",
    "Logprob",
    "RequestOutput",
    "RuntimeInfo",
    "RuntimeStats",
    "StreamChunk",
    "TokenLogprobs",
]

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token's natural-log probability under the raw logits, its rank (1 = most likely) and its text."""

    logprob: float
    rank: int
    decoded_token: str | None = None


TokenLogprobs = dict[int, Logprob]  # token id → Logprob: the token itself first, then the most likely ones


@dataclass(slots=True)
class CompletionOutput:
    """One sample of a request.

    Attributes
    ----------
    index : int
        Which of the request's n samples.
    text : str
        The output, special tokens and (unless asked for) the stop string left out.
    token_ids : list of int
        Every generated token, the one that ended the output included.
    cumulative_logprob : float or None
        Sum of the tokens' log-probabilities, when `logprobs` was asked for.
    logprobs : list of dict or None
        Per token, when asked for.
    finish_reason : "stop", "length", "abort" or None
        None while the sample is unfinished.
    stop_reason : int, str or None
        The stop token or stop string that ended it; None for the model's end-of-sequence token.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class RequestOutput:
    """A prompt and its samples, `outputs[0]` to `outputs[n - 1]`.

    `prompt` is None when the prompt was given as token ids. `prompt_logprobs[0]` is None: the first token is not predicted.
    """

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finished: bool = False


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """What is new in one sample since the last chunk; the texts of all chunks together are the whole text."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `Runtime.calibrate` saw: per weight name, the sum over tokens of the squared input, float64 [input features]."""

    num_tokens: int
    sum_squares: dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What was loaded, and with what sizes.

    Bytes are this rank's; `table_bytes` those of the weights that a step only picks rows from. `pruning` is the manifest's record of how
    the model was pruned.
    """

    model_path_name: str
    model_id: str
    architecture: str
    producer: str
    pruning: dict[str, Any] | None
    device: str
    activation_dtype: str
    kv_dtype: str
    num_parameters: int
    weight_bytes: int
    table_bytes: int
    sparse_elements: int
    sparse_zeros: int
    vocab_size: int
    num_layers: int
    hidden_size: int
    max_model_len: int
    kv_bytes: int
    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    eos_token_ids: list[int]
    bos_token_id: int | None
    tensor_parallel_size: int

    @property
    def sparsity(self) -> float:
        """Zeros ÷ weights of the linears that are stored sparse; 0 when there is none."""
        return self.sparse_zeros / self.sparse_elements if self.sparse_elements else 0.0


@dataclass(frozen=True, slots=True)
class RuntimeStats:
    """Counters since load. A step with any prompt token counts as prefill; `host_allocations` is constant in steady state."""

    steps: int
    prefill_tokens: int
    decode_tokens: int
    preemptions: int
    requests_finished: int
    requests_aborted: int
    requests_failed: int
    waiting: int
    running: int
    free_blocks: int
    prefill_seconds: float
    decode_seconds: float
    host_allocations: int
    host_live_bytes: int
    device_live_bytes: int
