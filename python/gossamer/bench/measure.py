"""Prefill and decode speed, latency and memory of one model for one batch shape."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gossamer import _core
from gossamer.outputs import RuntimeInfo
from gossamer.runtime import Runtime

__all__ = ["Row", "Shape", "Timing", "measure", "measure_model", "model_name", "peak_rss_bytes", "runtime_options_for", "step_bytes"]

_SEED = 20240607  # of the prompts' random token ids


@dataclass(frozen=True)
class Shape:
    """`batch` requests at once, each with `prompt_tokens` random ids, each generating exactly `new_tokens`."""

    batch: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Timing:
    """When each token of each request arrived, in seconds after the requests were submitted: f64 [batch][new_tokens]."""

    arrivals: tuple[tuple[float, ...], ...]

    @property
    def prefill_seconds(self) -> float:
        """Until every request has its first token."""
        return max(times[0] for times in self.arrivals)

    @property
    def decode_tokens_per_second(self) -> float:
        """Over what arrives after every request has its first token; NaN if nothing does."""
        later = [t for times in self.arrivals for t in times if t > self.prefill_seconds]
        return len(later) / (max(later) - self.prefill_seconds) if later else float("nan")

    @property
    def first_token_seconds(self) -> list[float]:
        return [times[0] for times in self.arrivals]

    @property
    def inter_token_seconds(self) -> list[float]:
        return [later - earlier for times in self.arrivals for earlier, later in itertools.pairwise(times)]


@dataclass(frozen=True)
class Row:
    """One line of the table. A `_std` is the sample standard deviation over the repeats; times are milliseconds.

    `weights` is "stored" or "random"; `context` the tokens that a sequence ends with. `weight_bytes` are the resident packed weights, head
    included, tied counted once; `weight_gb_s` is weight_bytes × decode steps per second ÷ 1e9. `roofline_ms` is what a decode step takes
    that reads its weights and, of half the new tokens, its KV cache once at `read_gbps`, the measured ceiling. `peak_gb` is the device's
    memory that Gossamer holds, KV cache included; on a CPU, as `peak_rss_mb`, the process's high-water mark: of this row alone only with a
    fresh process per row. `peer` and its speed are empty unless asked for.
    """

    model: str
    weights: str
    sparsity: float
    dtype: str
    candidates: str
    batch: int
    prompt_tokens: int
    new_tokens: int
    context: int
    repeats: int
    prefill_tok_s: float
    prefill_tok_s_std: float
    decode_tok_s: float
    decode_tok_s_std: float
    step_ms: float
    roofline_ms: float
    ttft_ms: float
    itl_p50_ms: float
    itl_p95_ms: float
    weight_bytes: int
    weight_gb_s: float
    read_gbps: float
    peak_gb: float
    peak_rss_mb: float
    device: str
    peer: str = ""
    peer_decode_tok_s: float = float("nan")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def peak_rss_bytes() -> int:
    """High-water mark of this process's resident memory (of the program, not of what was there before exec)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM; peak memory can be measured on Linux only")


def measure(runtime: Runtime, shape: Shape, repeat: int = 0) -> Timing:
    """Run one batch greedily; prompts differ from repeat to repeat but not from run to run."""
    engine = runtime._open_engine()
    random = np.random.default_rng([_SEED, repeat])
    prompts = random.integers(0, runtime.info().vocab_size, (shape.batch, shape.prompt_tokens)).tolist()
    params = _core.SamplingParams()
    params.temperature = 0.0
    params.max_tokens = shape.new_tokens
    params.ignore_eos = True
    arrivals: dict[int, list[float]] = {}
    start = time.perf_counter()
    try:
        for prompt in prompts:
            arrivals[engine.submit(prompt, params)] = []
        waiting = list(arrivals)
        while waiting:
            for position, request in enumerate(waiting):
                deltas = engine.wait(request, 50 if position == 0 else 0)
                now = time.perf_counter() - start
                for delta in deltas:
                    _note(arrivals[request], now, len(delta.tokens))
                    if delta.finish_reason and len(arrivals[request]) < shape.new_tokens:
                        raise RuntimeError(f"a request ended after {len(arrivals[request])} of {shape.new_tokens} tokens")
            waiting = [request for request in waiting if len(arrivals[request]) < shape.new_tokens]
    finally:
        for request in arrivals:
            engine.release(request)
    return Timing(tuple(tuple(times) for times in arrivals.values()))


def _note(times: list[float], now: float, count: int) -> None:
    """Tokens that are seen together came one by one since the last that was seen, or since the start."""
    last = times[-1] if times else 0.0
    times.extend(last + (now - last) * (i + 1) / count for i in range(count))


def measure_model(
    model: str | os.PathLike[str],
    shapes: list[Shape],
    *,
    repeats: int = 5,
    runtime_options: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
    read_rate: float = float("nan"),
) -> list[Row]:
    """Load a model and measure every shape: one unmeasured run, then `repeats`.

    `model` may be a config.json, with ``weights="random"`` in the options. `progress` gets the runs done so far. `read_rate`, in bytes per
    second, is what the device's memory can be read at.
    """
    options = runtime_options_for(shapes) | dict(runtime_options or {})
    label = Label(model_name(model), str(options.get("weights", "stored")), ",".join(options.get("candidates", ())))
    rows, done = [], 0
    with Runtime(model, **options) as runtime:
        for shape in shapes:
            timings = []
            for repeat in range(repeats + 1):
                timing = measure(runtime, shape, repeat)
                if repeat > 0:
                    timings.append(timing)
                done += 1
                if progress:
                    progress(done)
            rows.append(_row(runtime, label, shape, timings, read_rate))
    return rows


def runtime_options_for(shapes: list[Shape]) -> dict[str, Any]:
    """The sizes of a Runtime that is made for these shapes and no more."""
    longest = max(shape.prompt_tokens + shape.new_tokens for shape in shapes)
    return {"max_model_len": longest, "max_num_seqs": max(shape.batch for shape in shapes)}


def model_name(model: str | os.PathLike[str]) -> str:
    """Of a directory or of a configuration: "llama3-8b" for configs/llama3-8b.json."""
    path = Path(model)
    if path.name == "config.json":
        return path.parent.name
    return path.stem if path.suffix == ".json" else path.name


@dataclass(frozen=True)
class Label:
    """What a row says of the model beside what the Runtime knows."""

    model: str
    weights: str
    candidates: str


def step_bytes(info: RuntimeInfo, shape: Shape) -> float:
    """Bytes that a decode step has to read: the weights, and the KV cache of a request that is half done."""
    kv_bytes = info.kv_bytes / info.num_blocks / info.block_size
    return info.weight_bytes - info.table_bytes + shape.batch * kv_bytes * (shape.prompt_tokens + shape.new_tokens / 2)


def _row(runtime: Runtime, label: Label, shape: Shape, timings: list[Timing], read_rate: float) -> Row:
    info = runtime.info()
    device_bytes = runtime.stats().device_live_bytes
    prefill = np.array([shape.batch * shape.prompt_tokens / t.prefill_seconds for t in timings])
    decode = np.array([t.decode_tokens_per_second for t in timings])
    between = 1e3 * np.array([s for t in timings for s in t.inter_token_seconds] or [float("nan")])
    spread = 1 if len(timings) > 1 else 0  # a single run has no spread: 0
    return Row(
        model=label.model,
        weights=label.weights,
        sparsity=info.sparsity,
        dtype=info.activation_dtype,
        candidates=label.candidates,
        batch=shape.batch,
        prompt_tokens=shape.prompt_tokens,
        new_tokens=shape.new_tokens,
        context=shape.prompt_tokens + shape.new_tokens,
        repeats=len(timings),
        prefill_tok_s=float(prefill.mean()),
        prefill_tok_s_std=float(prefill.std(ddof=spread)),
        decode_tok_s=float(decode.mean()),
        decode_tok_s_std=float(decode.std(ddof=spread)),
        step_ms=1e3 * shape.batch / float(decode.mean()),
        roofline_ms=1e3 * step_bytes(info, shape) / read_rate,
        ttft_ms=1e3 * float(np.mean([s for t in timings for s in t.first_token_seconds])),
        itl_p50_ms=float(np.percentile(between, 50)),
        itl_p95_ms=float(np.percentile(between, 95)),
        weight_bytes=info.weight_bytes,
        weight_gb_s=info.weight_bytes * float(decode.mean()) / shape.batch / 1e9,
        read_gbps=read_rate / 1e9,
        peak_gb=(peak_rss_bytes() if info.device.startswith("cpu") else device_bytes) / 1e9,
        peak_rss_mb=peak_rss_bytes() / 1e6,
        device=info.device,
    )
