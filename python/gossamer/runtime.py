"""Runtime: loads a model and serves requests."""

from __future__ import annotations

import atexit
import dataclasses
import json
import logging
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from gossamer import _core
from gossamer.arguments import sampling_params_from_keywords
from gossamer.chat_template import Message
from gossamer.checks import INT32_MAX, INT64_MAX, integer, real, shown
from gossamer.cost_tables import stored_table
from gossamer.errors import CheckpointError
from gossamer.model_files import ModelFiles, read_config
from gossamer.outputs import Calibration, RequestOutput, RuntimeInfo, RuntimeStats
from gossamer.prompts import Prompt, Prompts, encode_prompts
from gossamer.requests import AsyncTokenStream, Request, RequestBatch, TokenStream, run, run_async
from gossamer.sampling_params import SamplingParams
from gossamer.tokenizer import Tokenizer

__all__ = ["Runtime"]

_log = logging.getLogger("gossamer")
_alive: weakref.WeakSet[Runtime] = weakref.WeakSet()

Params = SamplingParams | Sequence[SamplingParams] | None


class Runtime:
    """A loaded model and its engine, which batches the requests of all threads.

    Parameters
    ----------
    model : str, path or mapping
        A model directory made by `gossamer convert` or `gossamer prune`; with random weights, its configuration alone: a config.json or
        what it holds.
    weights : "stored" or "random"
        "random" makes every weight up where it is used, in seconds, for measuring models that one need not have: norms 1, biases 0.
    sparsity : float, optional
        Of the layers' random products, in [0, 1); embedding and head stay dense. Default: 0.
    values : "fp8" or "int8", optional
        Of the random products (the head's too, unless it is the embedding): 8-bit values with one scale a row. Default: the
        activations' dtype.
    device : str
        "auto", "cpu", "cuda", "cuda:0", or "reference" (plain loops, slow, for tests).
    dtype : str
        Of the activations: "auto" (float32 on the CPU), "float32", "bfloat16" or "float16". "bfloat16" on the CPU: products of
        bfloat16 weights round their inputs to it, and all else stays float32.
    max_model_len : int, optional
        Most tokens of a prompt and its output together; default: the model's.
    max_num_seqs : int
        Most sequences that run at once.
    max_num_batched_tokens : int, optional
        Most tokens of one step; default: the device's.
    block_size : int
        Tokens per block of the KV cache.
    kv_cache_memory : int, optional
        Bytes of the KV cache; default on the CPU: the smaller of the model's need and a quarter of free memory.
    gpu_memory_utilization : float
        Share of a GPU's memory that weights and KV cache may fill, in (0, 1].
    eight_bit : "auto", "off", "weights" or "activations"
        What a GPU does with weights of 8-bit values and one scale a row. "off": they become 16-bit numbers at load, and take as much
        memory. "weights": they stay 8 bits wide. "activations": products of int8 weights round activations to 8 bits with a scale per
        token, too. "auto": "weights", or "off" where batch_invariant is asked for.
    num_threads : int, optional
        CPU threads; default: all cores this process may use.
    seed : int
        Seeds the requests that have none, and random weights.
    enforce_eager : bool
        Never record decode steps as CUDA graphs: the same tokens, more slowly.
    batch_invariant : bool
        On a GPU: give a request the same bits whatever runs beside it, more slowly. A CPU always does.
    cost_table : path, optional
        On a GPU: the file of kernel times that `gossamer tune` made; default: the one it stored for this GPU, if any, else an H100's.
    candidates : sequence of str
        Code paths that are not the default yet, for tests and measurements: "ahead" (a step begins before the host has read the tokens of
        the one before), "head" (where decode steps are recorded, their head is part of them) and, on a GPU, "pack" (docs/gpu-runtime.md).
    tensor_parallel_size : int, optional
        Ranks that share the model; default: what the launcher says.
    all_reduce : "nccl" or "one-shot"
        How several GPUs sum. "one-shot": small sums by one kernel over peer memory, on GPUs of one host (measured alone: docs/scaling.md).
    watchdog_seconds : float
        With several ranks: how long one may be silent before all of them end, in [1, 86400].
    verify : "full" or "header"
        Check the digests of all data, or only of the small files and the structure.
    allow_symlinks : bool
        Let files of the model directory be symbolic links.
    progress : callable, optional
        Called with (bytes done, bytes in all) about every 50 ms of loading; may raise to cancel.

    Raises
    ------
    CheckpointError
        The directory is no valid model; a plain Hugging Face directory is told the command that converts it.
    OutOfMemoryError, DeviceError
        The model does not fit; the device is not usable.
    ValueError, TypeError
        Names the argument and its range.

    Notes
    -----
    Under ``mpirun -n N python script.py`` the N processes share the model. All run the script as far as their first `Runtime`: rank 0
    goes on and is used as ever, while on the others making a `Runtime` does not return; they compute what rank 0 asks for, and exit when
    it closes its own. A process can make one `Runtime` then. When a rank fails or hangs, rank 0's calls raise `EngineDeadError` and all
    processes end within seconds.

    Methods may be called from several threads. Parameters of requests are a `SamplingParams`, or keywords: its fields, or Hugging
    Face's names for them (max_new_tokens, min_new_tokens, do_sample, num_return_sequences, eos_token_id, stop_strings). With keywords or
    nothing, the sampling defaults of the model's generation_config.json hold, as in vLLM; a `SamplingParams` is taken as it is.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Mapping[str, Any],
        *,
        weights: Literal["stored", "random"] = "stored",
        sparsity: float | None = None,
        values: Literal["fp8", "int8"] | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int | None = None,
        block_size: int = 16,
        kv_cache_memory: int | None = None,
        gpu_memory_utilization: float = 0.9,
        eight_bit: Literal["auto", "off", "weights", "activations"] = "auto",
        num_threads: int | None = None,
        seed: int = 0,
        enforce_eager: bool = False,
        batch_invariant: bool = False,
        cost_table: str | os.PathLike[str] | None = None,
        candidates: Sequence[str] = (),
        tensor_parallel_size: int | None = None,
        all_reduce: Literal["nccl", "one-shot"] = "nccl",
        watchdog_seconds: float = 30.0,
        verify: Literal["full", "header"] = "full",
        allow_symlinks: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._engine: _core.Engine | None = None
        options = _core.RuntimeOptions()
        if _text("weights", weights) == "random":
            path, options.random_config = read_config(model)
            options.random_sparsity = real("sparsity", 0.0 if sparsity is None else sparsity, 0.0, 1.0)
            options.random_values = "" if values is None else _text("values", values)
        else:
            path = _stored(model, weights, sparsity, values)
        options.device = _text("device", device)
        options.dtype = _text("dtype", dtype)
        options.eight_bit = _text("eight_bit", eight_bit)
        options.verify = _text("verify", verify)
        options.max_num_seqs = integer("max_num_seqs", max_num_seqs, 1, INT32_MAX)
        options.block_size = integer("block_size", block_size, 1, 4096)
        options.gpu_memory_utilization = real("gpu_memory_utilization", gpu_memory_utilization, 0.0, 1.0, open_low=True)
        options.seed = integer("seed", seed, 0, 2**64 - 1)
        options.max_model_len = _optional("max_model_len", max_model_len, INT32_MAX)
        options.max_num_batched_tokens = _optional("max_num_batched_tokens", max_num_batched_tokens, INT32_MAX)
        options.kv_cache_memory = _optional("kv_cache_memory", kv_cache_memory, INT64_MAX)
        options.num_threads = _optional("num_threads", num_threads, 4096)
        options.tensor_parallel_size = _optional("tensor_parallel_size", tensor_parallel_size, 4096)
        options.all_reduce = _text("all_reduce", all_reduce)
        options.watchdog_seconds = real("watchdog_seconds", watchdog_seconds, 1.0, 86400.0)
        options.allow_symlinks = _flag("allow_symlinks", allow_symlinks)
        options.enforce_eager = _flag("enforce_eager", enforce_eager)
        options.batch_invariant = _flag("batch_invariant", batch_invariant)
        options.cost_table = stored_table(options.device) if cost_table is None else os.fspath(cost_table)
        if isinstance(candidates, str):
            raise TypeError(f"candidates must be a sequence of names, not {shown(candidates)}")
        options.candidates = [_text("candidates", name) for name in candidates]

        self._files = ModelFiles.none() if options.random_config else ModelFiles.read(path, allow_symlinks)
        try:
            engine = _core.Engine(path, options, progress)
        finally:
            _forward_log()
        if engine.rank() > 0:
            engine.serve()
            raise SystemExit(0)
        self._info = _info(engine.info())
        if self._info.model_id != self._files.model_id:
            raise CheckpointError("the model directory changed while it was being loaded; load it again", file="gossamer.json")
        self._engine = engine
        _alive.add(self)

    # Generation

    def generate(self, prompts: Prompts, params: Params = None, **keywords: Any) -> list[RequestOutput]:
        """Continue prompts; return one `RequestOutput` per prompt, in their order.

        Parameters
        ----------
        prompts : str, list of int, or list of these
            Texts or token ids. Special tokens (BOS) are added to texts as the tokenizer says, to token ids never.
        params : SamplingParams or list of SamplingParams, optional
            For all prompts, or one for each.
        **keywords
            In place of params: fields of SamplingParams, or Hugging Face's names for them. `max_tokens` is 16 if not given.

        Raises
        ------
        ContextLengthError
            A prompt with its max_tokens exceeds the context.
        QueueFullError, EngineDeadError, NumericsError
            See `gossamer.errors`; all requests of this call are cancelled.
        ValueError, TypeError
            An empty prompt, a value out of range, an unknown argument; nothing has run.
        """
        return run(self._batch(prompts, params, keywords))

    async def agenerate(self, prompts: Prompts, params: Params = None, **keywords: Any) -> list[RequestOutput]:
        """As `generate`, without blocking the event loop; cancelling the task cancels the requests."""
        return await run_async(self._batch(prompts, params, keywords))

    def stream(self, prompt: Prompt, params: SamplingParams | None = None, **keywords: Any) -> TokenStream:
        """Continue one prompt; return an iterator of `StreamChunk`, whose texts together are the output.

        Text is given out when its characters are complete and it cannot be part of a stop string. Without params, `max_tokens` is the
        rest of the context. Leaving the loop early, or closing the stream, cancels the request. Errors as in `generate`.
        """
        return TokenStream(self._single(prompt, params, keywords))

    def astream(self, prompt: Prompt, params: SamplingParams | None = None, **keywords: Any) -> AsyncTokenStream:
        """As `stream`, for ``async for``."""
        return AsyncTokenStream(self._single(prompt, params, keywords))

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: Params = None,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **keywords: Any,
    ) -> list[RequestOutput]:
        """Answer a conversation, or several; return one `RequestOutput` for each.

        Parameters
        ----------
        messages : list of {"role": str, "content": str}, or list of such lists
            The turns so far; the model's chat template makes the prompt of them.
        params, **keywords
            As in `generate`, but `max_tokens` is the rest of the context if not given.
        chat_template_kwargs : mapping, optional
            Further variables of the template, such as ``{"enable_thinking": False}``.
        """
        prompts = self._chat_prompts(messages, chat_template_kwargs)
        return run(self._batch(prompts, params, keywords, max_tokens=None))

    async def achat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: Params = None,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **keywords: Any,
    ) -> list[RequestOutput]:
        """As `chat`, without blocking the event loop."""
        prompts = self._chat_prompts(messages, chat_template_kwargs)
        return await run_async(self._batch(prompts, params, keywords, max_tokens=None))

    def apply_chat_template(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any) -> list[int]:
        """Return the token ids of a conversation, ready for `stream` or `generate`."""
        if self._files.chat_template is None:
            raise ValueError("this model has no chat template; use generate() or stream() with a prompt of your own")
        text = self._files.chat_template.render(messages, add_generation_prompt=add_generation_prompt, **variables)
        return self.tokenizer.encode(text, add_special_tokens=False)

    # Measuring

    def score(self, sequences: Prompts) -> list[NDArray[np.float32]]:
        """Return each token's natural-log probability given those before it.

        Parameters
        ----------
        sequences : str, list of int, or list of these
            At most max_model_len tokens each.

        Returns
        -------
        list of float32 arrays [number of tokens]
            Entry 0 is 0: the first token is not predicted.
        """
        engine = self._open_engine()
        encoded = encode_prompts(sequences, self._files.tokenizer, self._info.vocab_size, "sequences")
        scores = engine.score([token_ids for _, token_ids in encoded])
        return [np.asarray(score, dtype=np.float32) for score in scores]

    def calibrate(self, sequences: Prompts, *, progress: Callable[[int], None] | None = None) -> Calibration:
        """Run sequences and return how strongly each input feature of each linear was excited; what pruning needs.

        Parameters
        ----------
        sequences : as in `score`
        progress : callable, optional
            Called with the number of sequences done, about every 50 ms; may raise to cancel.
        """
        engine = self._open_engine()
        encoded = encode_prompts(sequences, self._files.tokenizer, self._info.vocab_size, "sequences")
        num_tokens, sums = engine.calibrate([token_ids for _, token_ids in encoded], progress)
        return Calibration(num_tokens, sums)

    # State

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; ValueError if it has none."""
        if self._files.tokenizer is None:
            raise ValueError("the model directory has no tokenizer.json; use token ids, or convert again with a tokenizer")
        return self._files.tokenizer

    @property
    def default_params(self) -> SamplingParams:
        """What a request without parameters gets: the defaults of the model's generation_config.json."""
        return self._files.defaults

    def info(self) -> RuntimeInfo:
        """Return what was loaded, and with what sizes. Works after `close`."""
        return self._info

    def stats(self) -> RuntimeStats:
        """Return the engine's counters."""
        core = self._open_engine().stats()
        return RuntimeStats(**{field.name: getattr(core, field.name) for field in dataclasses.fields(RuntimeStats)})

    def close(self) -> None:
        """Cancel what runs and free the model. Idempotent; later calls of other methods are a ValueError."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
            _forward_log()

    def __enter__(self) -> Runtime:
        self._open_engine()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if getattr(self, "_engine", None) else ", closed"
        info = getattr(self, "_info", None)
        return f"<gossamer.Runtime {info.model_path_name}: {info.architecture} on {info.device}{state}>" if info else "<gossamer.Runtime>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Runtime cannot be copied or pickled; make one in each process, from the model's path")

    # Internals

    def _open_engine(self) -> _core.Engine:
        if self._engine is None:
            raise ValueError("the Runtime is closed; make a new one")
        return self._engine

    def _batch(self, prompts: Prompts, params: Params, keywords: dict[str, Any], max_tokens: int | None = 16) -> RequestBatch:
        engine = self._open_engine()
        given = _given(params, keywords)
        encoded = encode_prompts(prompts, self._files.tokenizer, self._info.vocab_size)
        if isinstance(given, Sequence):
            if len(given) != len(encoded):
                raise ValueError(f"params has {len(given)} entries for {len(encoded)} prompts; give one for all, or one for each")
            each = [self._params(entry, {}, max_tokens) for entry in given]
        else:
            each = [self._params(given, keywords, max_tokens)] * len(encoded)
        make = [
            partial(Request, engine, self._files.tokenizer, prompt, token_ids, one)
            for (prompt, token_ids), one in zip(encoded, each, strict=True)
        ]
        return RequestBatch(make, window=2 * self._info.max_num_seqs)

    def _single(self, prompt: Prompt, params: SamplingParams | None, keywords: dict[str, Any]) -> Request:
        engine = self._open_engine()
        one = self._params(_given(params, keywords), keywords, None)
        encoded = encode_prompts(prompt, self._files.tokenizer, self._info.vocab_size, "prompt")
        if len(encoded) != 1:
            raise TypeError("prompt must be one text or one list of token ids; generate() takes several")
        text, token_ids = encoded[0]
        return Request(engine, self._files.tokenizer, text, token_ids, one)

    def _params(self, params: Any, keywords: dict[str, Any], max_tokens: int | None) -> SamplingParams:
        if params is None:
            return sampling_params_from_keywords(dataclasses.replace(self._files.defaults, max_tokens=max_tokens), keywords)
        if not isinstance(params, SamplingParams):
            raise TypeError(f"params must be a SamplingParams, not {shown(params)}")
        return params

    def _chat_prompts(self, messages: Any, variables: Mapping[str, Any] | None) -> list[list[int]]:
        several = isinstance(messages, Sequence) and bool(messages) and isinstance(messages[0], (list, tuple))
        conversations = messages if several else [messages]
        return [self.apply_chat_template(conversation, **dict(variables or {})) for conversation in conversations]


def _given(params: Any, keywords: dict[str, Any]) -> Any:
    """Return `params`, also by vLLM's name for it; parameters and keywords together are refused."""
    if "sampling_params" in keywords:
        if params is not None:
            raise TypeError("'params' and 'sampling_params' are two spellings of one argument; give one of them")
        params = keywords.pop("sampling_params")
    if params is not None and keywords:
        raise TypeError(f"give params or keywords, not both: {', '.join(sorted(keywords))} would be ambiguous")
    return params


def _info(core: _core.RuntimeInfo) -> RuntimeInfo:
    names = [field.name for field in dataclasses.fields(RuntimeInfo) if field.name != "pruning"]
    return RuntimeInfo(pruning=json.loads(core.pruning_json or "null"), **{name: getattr(core, name) for name in names})


def _stored(model: Any, weights: str, sparsity: float | None, values: str | None) -> str:
    """Return the path of a model directory, after refusing what only random weights take."""
    if weights != "stored":
        raise ValueError(f"weights must be 'stored' or 'random', not {shown(weights)}")
    if sparsity is not None:
        raise ValueError("sparsity is that of random weights; a stored model has its own: give weights='random', or no sparsity")
    if values is not None:
        raise ValueError(
            "values are those of random weights; `gossamer convert --values` stores a model so: give weights='random', or none"
        )
    path = os.fspath(model)
    if not isinstance(path, str):
        raise TypeError(f"model must be a text path, not {shown(path)}")
    return path


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {shown(value)}")
    return value


def _optional(name: str, value: int | None, high: int) -> int:
    """None and 0 both leave the choice to the core."""
    return 0 if value is None else integer(name, value, 0, high)


def _forward_log() -> None:
    for level, message in _core.take_log():
        _log.log(level, "%s", message)


@atexit.register
def _close_all() -> None:
    """End the engines' threads before the interpreter goes; a forked child has none to end."""
    for runtime in list(_alive):
        try:
            runtime.close()
        except RuntimeError:  # made in another process
            continue
    _core.wait_for_calls(2000)  # of daemon threads: they may not meet the interpreter's end inside the core
