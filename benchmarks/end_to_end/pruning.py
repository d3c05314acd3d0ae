"""Perplexity against sparsity for every pruning method, into a JSON file; rows that are there already are kept.

python benchmarks/end_to_end/pruning.py models/smollm2 benchmarks/results/pruning_smollm2.json --methods wanda,sparsegpt --sparsities 0.5

Every model is pruned in a process of its own, whose wall-clock seconds, CPU seconds and peak memory the rows give, from the built-in
calibration texts; perplexity is that of the first windows of each built-in evaluation text, with its standard error over windows.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from gossamer import Runtime, texts
from gossamer.bench.context import context
from gossamer.checkpoint import ModelReader
from gossamer.evaluate import EvaluationText, score_text
from gossamer.prune import CalibrationSet, prune

LENGTH = 512  # tokens of a calibration sequence
WINDOW = 1024


def prune_once(model: str, out: str, method: str, sparsity: float, tokens: int, threads: int, queue: Any) -> None:
    """In a fresh process: prune, and report what it cost."""
    start, calibration = time.monotonic(), None
    if method != "magnitude":
        with ModelReader(model) as reader:
            calibration = CalibrationSet.from_files(texts.CALIBRATION, reader.side_files(), num_tokens=tokens, length=LENGTH)
    prune(model, {sparsity: out}, method=method, calibration=calibration, runtime_options={"num_threads": threads})
    usage = resource.getrusage(resource.RUSAGE_SELF)
    queue.put((time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))


def perplexities(model: str, windows: int, threads: int) -> list[dict[str, Any]]:
    """One entry per evaluation text."""
    found = []
    with Runtime(model, num_threads=threads, max_num_seqs=1) as runtime:
        for file in texts.EVALUATION:
            text = EvaluationText.from_file(file, runtime.tokenizer, window=WINDOW, max_windows=windows)
            score = score_text(runtime, text)
            found.append({"text": file.name, "windows": windows, "perplexity": score.perplexity, "perplexity_se": score.perplexity_se})
    return found


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False))
@click.argument("results", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--methods", default="magnitude,wanda,sparsegpt,alps,auto", show_default=True)
@click.option("--sparsities", default="0.3,0.4,0.5,0.6,0.7", show_default=True)
@click.option("--tokens", default=32768, show_default=True, help="Of calibration.")
@click.option("--windows", default=8, show_default=True, help="Of each evaluation text.")
@click.option("--threads", default=0, help="0 = all cores.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Keep the pruned models here.")
def main(model: str, results: Path, methods: str, sparsities: str, tokens: int, windows: int, threads: int, keep: Path | None) -> None:
    rows: list[dict[str, Any]] = json.loads(results.read_text())["rows"] if results.exists() else []
    about = context() | {"command": f"python benchmarks/end_to_end/pruning.py {' '.join(sys.argv[1:])}"}

    def add(method: str, sparsity: float, directory: str, cost: tuple[float, float, float] | None) -> None:
        seconds = dict(zip(("seconds", "cpu_seconds", "peak_mb"), cost, strict=True)) if cost else {}
        for entry in perplexities(directory, windows, threads):
            row = {"method": method, "sparsity": sparsity} | entry | {"seconds": 0.0, "cpu_seconds": 0.0, "peak_mb": 0.0} | seconds
            rows.append(row | {"calibration_tokens": tokens} | about)
            click.echo(
                f"{method:10} {sparsity:.0%} {entry['text']:26} {entry['perplexity']:10.2f} ± {entry['perplexity_se']:.2f} {seconds}"
            )
        partial = results.with_suffix(".partial")
        partial.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
        partial.rename(results)

    def done(method: str, sparsity: float) -> bool:
        return any((row["method"], row["sparsity"]) == (method, sparsity) for row in rows)

    if not done("dense", 0.0):
        add("dense", 0.0, model, None)
    for method in methods.split(","):
        for sparsity in map(float, sparsities.split(",")):
            if done(method, sparsity):
                continue
            scratch = Path(tempfile.mkdtemp(dir=keep)) if keep else Path(tempfile.mkdtemp())
            out = keep / f"{method}-{round(sparsity * 100)}" if keep else scratch / "model"
            spawn = multiprocessing.get_context("spawn")
            queue = spawn.Queue()
            process = spawn.Process(target=prune_once, args=(model, os.fspath(out), method, sparsity, tokens, threads, queue))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(f"pruning by {method} to {sparsity:.0%} failed")
            add(method, sparsity, os.fspath(out), queue.get())
            shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
