"""The engines of the end-to-end benchmark: how each runs a batch of a shape."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.bench.measure import Shape, measure_model, peak_rss_bytes

__all__ = ["KINDS", "Kind", "run_kind"]

_REPEATS = 2  # measured runs of a process, after one that does not count
# bf16 inputs where there is a dot product for them; elsewhere they would only be rounded.
_BF16_INPUTS = "bfloat16" if "avx512_bf16" in Path("/proc/cpuinfo").read_text() else "float32"


@dataclass(frozen=True)
class Kind:
    """One engine with one kind of weights. `values`: Gossamer's (bf16, int8, int4) or GGUF's (BF16, F16, Q8_0, Q4_0)."""

    engine: str
    values: str
    sparsity: float = 0.0
    activations: str = "float32"
    package: str | None = None  # that must be installed

    @property
    def name(self) -> str:
        return f"{self.engine} {self.values} {self.sparsity:g} {self.activations}"


KINDS = (
    Kind("gossamer", "bf16", 0.0, _BF16_INPUTS),
    Kind("llama.cpp", "BF16", package="llama_cpp"),
    Kind("gossamer", "bf16", 0.6, _BF16_INPUTS),
    Kind("llama.cpp", "F16", package="llama_cpp"),
    Kind("gossamer", "int8", 0.0, "bfloat16"),
    Kind("llama.cpp", "Q8_0", package="llama_cpp"),
    Kind("gossamer", "int8", 0.5, "bfloat16"),
    Kind("gossamer", "int4", 0.0, "bfloat16"),
    Kind("llama.cpp", "Q4_0", package="llama_cpp"),
    Kind("gossamer", "int4", 0.5, "bfloat16"),
)


def run_kind(kind: Kind, model: str, directory: Path, threads: int, shapes: Sequence[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """Rows of one engine, one for every (batch, prompt tokens, new tokens)."""
    from models import path_of

    path = path_of(model, kind, directory)
    rows = []
    for batch, prompt_tokens, new_tokens in shapes:
        if kind.engine == "gossamer":
            options = {"device": "cpu", "num_threads": threads, "dtype": kind.activations}
            row = measure_model(path, [Shape(batch, prompt_tokens, new_tokens)], repeats=_REPEATS, runtime_options=options)[0]
            prefill, decode, dtype, engine = row.prefill_tok_s, row.decode_tok_s, kind.values, "gossamer"
        else:
            prefill, decode = _llama_cpp(path, threads, batch, prompt_tokens, new_tokens)
            dtype, engine = kind.values.lower(), f"llama.cpp {kind.values.lower()}"
        rows.append(
            {
                "engine": engine, "model": model, "sparsity": kind.sparsity, "dtype": dtype, "activations": kind.activations,
                "batch": batch, "threads": threads, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens,
                "prefill_tok_s": prefill, "decode_tok_s": decode, "peak_rss_mb": peak_rss_bytes() / 1e6,
            }
        )  # fmt: skip
    return rows


def _llama_cpp(path: Path, threads: int, batch: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
    """Prefill and decode tokens/s through llama-cpp-python's low-level calls; nothing is sampled."""
    import llama_cpp

    silent = llama_cpp.llama_log_callback(lambda level, text, user_data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise OSError(f"llama.cpp could not load {path}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = batch * ((prompt_tokens + new_tokens + 255) // 256 * 256)
    params.n_batch = max(512, batch * prompt_tokens)
    params.n_seq_max = batch
    params.n_threads = params.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, params)
    tokens = llama_cpp.llama_batch_init(params.n_batch, 0, 1)

    def step(positions: range) -> None:
        """Feed these positions of every sequence; logits of the last one."""
        tokens.n_tokens = batch * len(positions)
        for sequence in range(batch):
            for i, position in enumerate(positions):
                at = sequence * len(positions) + i
                tokens.token[at] = (7 * position + 13 * sequence) % 997 + 3
                tokens.pos[at], tokens.n_seq_id[at], tokens.seq_id[at][0] = position, 1, sequence
                tokens.logits[at] = position == positions[-1]
        if llama_cpp.llama_decode(context, tokens):
            raise RuntimeError("llama_decode failed")
        llama_cpp.llama_synchronize(context)

    prefill, decode = [], []
    for _ in range(_REPEATS + 1):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        start = time.perf_counter()
        step(range(prompt_tokens))
        middle = time.perf_counter()
        for position in range(prompt_tokens, prompt_tokens + new_tokens - 1):
            step(range(position, position + 1))
        prefill.append(batch * prompt_tokens / (middle - start))
        decode.append(batch * (new_tokens - 1) / (time.perf_counter() - middle))
    llama_cpp.llama_batch_free(tokens)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return sum(prefill[1:]) / _REPEATS, sum(decode[1:]) / _REPEATS
