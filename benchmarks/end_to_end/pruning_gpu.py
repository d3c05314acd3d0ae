"""What pruning a model of a given shape takes on a GPU: seconds of every phase, host and GPU memory. Random weights: time and memory only.

python benchmarks/end_to_end/pruning_gpu.py benchmarks/configs/llama3-8b.json /scratch/llama --results prune.json
python benchmarks/end_to_end/pruning_gpu.py benchmarks/configs/llama3-8b.json /scratch/llama-2 --layers 2

Writes bf16 weights of that shape to MODEL, unless it is there, and prunes it into MODEL-pruned, calibrated on random tokens. Prints the
seconds of every phase, and of every kind of work within it, as they pass, and then the row: a run that is cut off has said where its time
went.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np

import gossamer
from gossamer.bench.context import context
from gossamer.checkpoint import ModelWriter
from gossamer.checkpoint.dtypes import DTYPES
from gossamer.prune import METHODS, CalibrationSet, layerwise, pipeline, prune, sensitivity
from gossamer.prune.arrays import array_module, as_stored

LENGTH = 512  # tokens of a calibration sequence
STD = 0.02  # of the weights: products of normed inputs then have outputs of about 1
ROW_BLOCK = 1 << 20  # weights that a thread makes at a time


def shapes_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Llama, in the order in which it is written."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    layer: dict[str, tuple[int, ...]] = {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    layer |= {f"self_attn.{name}_proj": (rows, hidden) for name, rows in (("q", hidden), ("k", kv), ("v", kv), ("o", hidden))}
    layer |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    return shapes if config.get("tie_word_embeddings") else shapes | {"lm_head.weight": (vocab, hidden)}


def random_matrix(rows: int, cols: int, seed: int, pool: ThreadPoolExecutor) -> np.ndarray:
    """bf16, normal, by all threads; a function of its arguments alone but for the pool."""
    out = np.empty((rows, cols), DTYPES["bf16"])
    step = max(1, ROW_BLOCK // cols)

    def fill(begin: int) -> None:
        block = out[begin : begin + step]
        drawn = np.random.default_rng((seed, begin)).standard_normal(block.shape, np.float32)
        block[...] = as_stored(drawn * np.float32(STD), block.dtype)

    list(pool.map(fill, range(0, rows, step)))
    return out


def write(directory: Path, config: dict[str, Any]) -> None:
    source = {"kind": "huggingface", "name": "random", "sha256": "0" * 64}
    files = {"config.json": json.dumps(config).encode()}
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(os.sched_getaffinity(0))))
        producer = f"gossamer {gossamer.__version__}"
        writer = stack.enter_context(ModelWriter(directory, side_files=files, source=source, producer=producer))
        for seed, (name, shape) in enumerate(shapes_of(config).items()):
            writer.add_dense(name, random_matrix(*shape, seed, pool) if len(shape) == 2 else np.ones(shape, DTYPES["bf16"]))
        writer.finish()


def random_calibration(vocab: int, num_tokens: int) -> CalibrationSet:
    tokens = np.random.default_rng(0).integers(0, vocab, (max(1, num_tokens // LENGTH), LENGTH))
    return CalibrationSet((tuple(tuple(row) for row in tokens.tolist()),))


class Phases:
    """Seconds of every phase, told as they pass, and of the kinds of work within them, which do not overlap each other."""

    WORK = (
        ("load", ((layerwise, "_load"),)),
        ("run, moments", ((layerwise, "measure_against"), (layerwise, "run_layer"), (sensitivity, "inputs_of_layer"))),
        ("solve", ((layerwise._Run, "_pruned"),)),
        ("keep layer", ((layerwise.LayerStore, "save"), (pipeline.LayerStore, "load"))),
        ("mask", ((sensitivity, "_wanda"),)),
    )

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.work: dict[str, float] = {}
        self._begin = self._last = self._told = time.monotonic()
        for kind, places in self.WORK:
            for owner, name in places:
                setattr(owner, name, self._timed(kind, getattr(owner, name)))

    def _timed(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            begin = time.monotonic()
            try:
                return function(*args, **options)
            finally:
                self.work[kind] = self.work.get(kind, 0.0) + time.monotonic() - begin

        return timed

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now
        if now - self._told > 2 or done in (0, total):
            self._told = now
            work = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in self.work.items())
            click.echo(f"{now - self._begin:8.1f} s  {phase} {done} / {total}  ({work})")


class PeakGpuMemory:
    """The most memory of the GPU that was taken since `start`, other processes' included, looked at ten times a second."""

    def __init__(self, used: Callable[[], int]) -> None:
        self._used, self._before, self.bytes = used, used(), 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self.bytes = max(self.bytes, self._used() - self._before)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def memory_in_use(device: str) -> Callable[[], int] | None:
    """A function that gives the bytes in use on the device; None for the host."""
    xp = array_module(device)
    if xp is np:
        return None
    card = xp.cuda.Device()

    def used() -> int:
        free, total = card.mem_info
        return total - free

    return used


@click.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--layers", type=int, help="So many instead of the config's.")
@click.option("--method", type=click.Choice(METHODS), default="auto", show_default=True)
@click.option("--sparsity", default=0.5, show_default=True)
@click.option("--tokens", default=32768, show_default=True, help="Of calibration.")
@click.option("--device", default="cuda:0", show_default=True)
@click.option("--threads", type=int, help="[default: all cores]")
@click.option("--results", type=click.Path(dir_okay=False, path_type=Path))
def main(
    config: Path,
    model: Path,
    layers: int | None,
    method: str,
    sparsity: float,
    tokens: int,
    device: str,
    threads: int | None,
    results: Path | None,
) -> None:
    settings = json.loads(config.read_text())
    settings["num_hidden_layers"] = layers or settings["num_hidden_layers"]
    begin = time.monotonic()
    if not model.exists():
        write(model, settings)
        click.echo(f"{time.monotonic() - begin:8.1f} s  the model is written")
    used = memory_in_use(device)
    peak = PeakGpuMemory(used) if used else None
    out = model.with_name(f"{model.name}-pruned")
    shutil.rmtree(out, ignore_errors=True)
    calibration = random_calibration(settings["vocab_size"], tokens)
    phases, begin = Phases(), time.monotonic()
    (report,) = prune(
        model,
        {sparsity: out},
        method=method,
        calibration=calibration if method != "magnitude" else None,
        runtime_options={"device": device, "num_threads": threads},
        progress=phases,
    )
    seconds = time.monotonic() - begin
    if peak:
        peak.stop()
    row = {
        "model": config.stem,
        "layers": settings["num_hidden_layers"],
        "method": method,
        "sparsity": report.actual_sparsity,
        "calibration_tokens": calibration.num_tokens,
        "device": device,
        "seconds": seconds,
        "phase_seconds": phases.seconds,
        "work_seconds": phases.work,
        "peak_host_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_gpu_mb": peak.bytes / 1e6 if peak else None,
        "output_bytes": sum(path.stat().st_size for path in out.iterdir()),
    } | context()
    click.echo(json.dumps(row, indent=1))
    if results:
        results.write_text(json.dumps({"rows": [row]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
