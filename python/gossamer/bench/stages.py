"""Where a step's time goes on a GPU, by kind of kernel, as torch's profiler (CUPTI) sees the kernels of this process."""

from __future__ import annotations

import collections
import itertools
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.bench.measure import Shape, measure
from gossamer.runtime import Runtime

__all__ = ["Stage", "StepProfile", "profile_steps", "stage_of", "summarize"]

# The first that is part of a kernel's name says its stage.
_STAGES = (
    ("nccl", "sums over ranks"),
    ("all_reduce", "sums over ranks"),
    ("all_gather", "sums over ranks"),
    ("expand_kernel", "expansion"),
    ("attention", "attention"),
    ("rope_kv", "rotation and KV write"),
    ("norm", "norms"),
    ("gated", "gated activation"),
    ("sample", "sampling"),
    ("pack_x", "packing of activations"),
    ("embedding", "rows"),
    ("gather", "rows"),
    ("take_kernel", "rows"),
    ("spmm", "sparse products"),
    ("epilogue_kernel", "dense products"),
    ("dense_kernel", "dense products"),
    ("gemm", "dense products"),
    ("nvjet", "dense products"),
    ("cutlass", "dense products"),
    ("splitK", "dense products"),
)

_FEWEST_STEPS = 6

Event = dict[str, Any]  # of a Chrome trace: name, cat, ts and dur in microseconds


@dataclass(frozen=True)
class Stage:
    name: str
    ms: float  # a step
    launches: float  # a step


@dataclass(frozen=True)
class StepProfile:
    """The steps that were most alike; `idle_ms` is the part of `step_ms` in which nothing ran on the GPU."""

    steps: int
    step_ms: float
    idle_ms: float
    stages: tuple[Stage, ...]


def stage_of(event: Event) -> str:
    """Return the stage that a kernel, copy or fill belongs to."""
    if event["cat"] != "kernel":
        return "copies"
    return next((stage for part, stage in _STAGES if part in event["name"]), "other kernels")


def summarize(events: Sequence[Event]) -> StepProfile:
    """Split what ran on a GPU into steps, each of which ends with a copy to the host, and average those of the usual length.

    Raises
    ------
    ValueError
        There are fewer than three such steps.
    """
    events = sorted((e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")), key=lambda e: e["ts"])
    steps: list[list[Event]] = [[]]
    for event in events:
        steps[-1].append(event)
        if event["cat"] == "gpu_memcpy" and "DtoH" in event["name"]:
            steps.append([])
    steps = [step for step in steps if step][1:]  # the first may lack its beginning
    if not steps:
        raise ValueError("the profile holds no step")
    usual = collections.Counter(len(step) for step in steps).most_common(1)[0][0]
    pairs = [(before, step) for before, step in itertools.pairwise(steps) if len(step) == len(before) == usual]
    if len(pairs) < 2:
        raise ValueError("the profile holds too few steps that are alike; ask for more new tokens")
    totals: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    for _, step in pairs:
        for event in step:
            totals[stage_of(event)][0] += event["dur"] / 1e3 / len(pairs)
            totals[stage_of(event)][1] += 1 / len(pairs)
    step_ms = statistics.median(_end(step) - _end(before) for before, step in pairs) / 1e3
    busy_ms = statistics.median(_busy(step) for _, step in pairs) / 1e3
    stages = tuple(Stage(name, ms, launches) for name, (ms, launches) in sorted(totals.items(), key=lambda item: -item[1][0]))
    return StepProfile(len(pairs), step_ms, max(0.0, step_ms - busy_ms), stages)


def _end(step: Sequence[Event]) -> float:
    return max(float(event["ts"] + event["dur"]) for event in step)


def _busy(step: Sequence[Event]) -> float:
    """Microseconds in which at least one thing ran."""
    total, until = 0.0, float("-inf")
    for event in step:
        begin, end = max(float(event["ts"]), until), float(event["ts"] + event["dur"])
        if end > begin:
            total += end - begin
            until = end
    return total


def profile_steps(runtime: Runtime, shape: Shape) -> StepProfile:
    """Run a batch under the profiler, or several if it has too few steps; needs torch with CUDA, in this process."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.init()
    measure(runtime, shape, 0)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for repeat in range(1 if shape.new_tokens > _FEWEST_STEPS else _FEWEST_STEPS):
            measure(runtime, shape, repeat)
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        return summarize(json.loads(trace.read_text())["traceEvents"])
