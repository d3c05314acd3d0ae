"""Perplexity against sparsity for every pruning method, into a JSON file; rows that are there already are kept.

python benchmarks/end_to_end/pruning.py models/smollm2 benchmarks/results/pruning_smollm2.json --methods wanda,sparsegpt --sparsities 0.5

Every model is pruned in a process of its own, whose wall-clock seconds, CPU seconds and peak memory the rows give, from the built-in
calibration texts; "auto-uniform" is auto with the same sparsity everywhere, "sparsegpt-allocated" SparseGPT with auto's allocation.
Perplexity is that of the first windows of each built-in evaluation text, as `gossamer eval` has it, with its standard error over windows.
With --jobs several prunings run at once, each on --threads cores of its own.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
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
# What a method's name means besides itself: how the sparsity is spread over the model.
ALLOCATIONS = {"uniform": "uniform", "allocated": "sensitivity"}
NO_COST = {"seconds": 0.0, "cpu_seconds": 0.0, "peak_mb": 0.0}


def prune_and_score(job: dict[str, Any]) -> list[dict[str, Any]]:
    """In a fresh process: prune unless the method is "dense", say what that cost, and score; a row per evaluation text."""
    cost = dict(NO_COST)
    if job["method"] != "dense":
        start, calibration = time.monotonic(), None
        name, _, mark = job["method"].partition("-")
        if name != "magnitude":
            with ModelReader(job["model"]) as reader:
                calibration = CalibrationSet.from_files(texts.CALIBRATION, reader.side_files(), num_tokens=job["tokens"], length=LENGTH)
        prune(
            job["model"],
            {job["sparsity"]: job["out"]},
            method=name,
            allocation=ALLOCATIONS[mark] if mark else "auto",
            calibration=calibration,
            runtime_options={"device": job["device"], "num_threads": job["threads"]},
        )
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime
        cost = {"seconds": time.monotonic() - start, "cpu_seconds": cpu, "peak_mb": usage.ru_maxrss / 1024}
    rows = []
    with Runtime(job["out"], device=job["device"], num_threads=job["threads"], max_num_seqs=1) as runtime:
        for file in texts.EVALUATION:
            text = EvaluationText.from_file(file, runtime.tokenizer, window=WINDOW, max_windows=job["windows"])
            score = score_text(runtime, text)
            row = {"method": job["method"], "sparsity": job["sparsity"], "text": file.name, "windows": len(text.sequences)}
            rows.append(row | {"perplexity": score.perplexity, "perplexity_se": score.perplexity_se} | cost)
    return rows


def run_all(jobs: list[dict[str, Any]], at_once: int) -> Iterator[list[dict[str, Any]]]:
    """Rows of the jobs, as they end; every running job has `threads` cores of its own."""
    cores = sorted(os.sched_getaffinity(0))
    threads = jobs[0]["threads"] if jobs else 1
    free = [cores[i : i + threads] for i in range(0, threads * at_once, threads)] if at_once > 1 else [cores]
    if any(len(own) < threads for own in free):
        sys.exit(f"{at_once} jobs of {threads} threads need {at_once * threads} cores, and there are {len(cores)}")
    running: list[tuple[subprocess.Popen[str], list[int], dict[str, Any]]] = []
    waiting = list(jobs)
    try:
        while waiting or running:
            while waiting and free:
                job, own = waiting.pop(0), free.pop(0)
                running.append((start(job, own), own, job))
            time.sleep(0.2)
            for entry in [e for e in running if e[0].poll() is not None]:
                running.remove(entry)
                process, own, job = entry
                assert process.stdout is not None
                if process.returncode:
                    sys.exit(f"{job['method']} to {job['sparsity']:.0%} failed")
                free.append(own)
                yield json.loads(process.stdout.read())
    finally:
        for process, _, _ in running:
            process.terminate()


def start(job: dict[str, Any], cores: list[int]) -> subprocess.Popen[str]:
    """This script for one job, on these cores."""
    return subprocess.Popen(
        [sys.executable, os.path.abspath(__file__), "--one", json.dumps(job)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": str(job["threads"])},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False))
@click.argument("results", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--methods", default="magnitude,wanda,sparsegpt,alps,auto", show_default=True)
@click.option("--sparsities", default="0.3,0.4,0.5,0.6,0.7", show_default=True)
@click.option("--tokens", default=32768, show_default=True, help="Of calibration.")
@click.option("--windows", type=click.IntRange(min=2), default=8, show_default=True, help="Of each evaluation text.")
@click.option("--threads", default=2, show_default=True, help="Of every job.")
@click.option("--device", default="cpu", show_default=True, help="What runs the model and the linear algebra.")
@click.option("--jobs", "at_once", default=1, show_default=True, help="How many prunings at once.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Keep the pruned models here.")
def main(
    model: str,
    results: Path,
    methods: str,
    sparsities: str,
    tokens: int,
    windows: int,
    threads: int,
    device: str,
    at_once: int,
    keep: Path | None,
) -> None:
    rows: list[dict[str, Any]] = json.loads(results.read_text())["rows"] if results.exists() else []
    about = context() | {"command": f"python benchmarks/end_to_end/pruning.py {' '.join(sys.argv[1:])}"}
    known = {(row["method"], row["sparsity"]) for row in rows}
    scratch = Path(tempfile.mkdtemp()) if keep is None else keep
    wanted = [("dense", 0.0)] + [(method, float(s)) for method in methods.split(",") for s in sparsities.split(",")]
    common = {"model": model, "tokens": tokens, "windows": windows, "threads": threads, "device": device}
    jobs = [
        common
        | {"method": method, "sparsity": sparsity}
        | {"out": model if method == "dense" else str(scratch / f"{method}-{round(sparsity * 100)}")}
        for method, sparsity in wanted
        if (method, sparsity) not in known
    ]
    for found in run_all(jobs, at_once):
        for row in found:
            rows.append(row | {"calibration_tokens": tokens, "threads": threads, "jobs": at_once, "device": device} | about)
            click.echo(
                f"{row['method']:20} {row['sparsity']:.0%} {row['text']:26} {row['perplexity']:10.2f} ± {row['perplexity_se']:.2f} "
                f"{row['seconds']:6.0f} s {row['cpu_seconds']:6.0f} CPU s {row['peak_mb']:6.0f} MB"
            )
        partial = results.with_suffix(".partial")
        partial.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
        partial.rename(results)
        if keep is None and found[0]["method"] != "dense":
            shutil.rmtree(scratch / f"{found[0]['method']}-{round(found[0]['sparsity'] * 100)}")
    if keep is None:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        json.dump(prune_and_score(json.loads(sys.argv[2])), sys.stdout)
    else:
        main()
