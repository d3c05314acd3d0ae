"""Measures whole models on the CPU beside other engines, each row in a process of its own, and writes the rows as JSON with a plot.

python benchmarks/cpu/end_to_end.py benchmarks/results/cpu_end_to_end.json [--rounds 3] [--models smollm2-135m,llama-1.1b]

Every round runs all engines one after the other; a row is the median of its rounds. Weights are SmolLM2's, pruned by magnitude (speed does
not ask which weights are zero), and random ones of a 1.1B Llama. Rivals take part when their packages are installed (llama-cpp-python).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from engines import KINDS, Kind, run_kind
from models import MODELS, prepare

from gossamer.bench.context import context

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Row = dict[str, Any]
_SHAPES = ((1, 512, 64), (8, 64, 64))  # batch, prompt tokens, new tokens


def clean_environment() -> dict[str, str]:
    """This environment without OPENBLAS_* variables, which can slow numpy and torch down several times."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}


def one_process(kind: Kind, model: str, directory: Path, threads: int) -> list[Row]:
    """Measure a kind in a new process; [] and a message where it fails."""
    command = [sys.executable, __file__, "-", "--directory", str(directory), "--threads", str(threads)]
    done = subprocess.run([*command, "--only", kind.name, "--models", model], stdout=subprocess.PIPE, env=clean_environment(), check=False)
    if done.returncode:
        print(f"{kind.name} on {model} failed", file=sys.stderr)
        return []
    rows: list[Row] = json.loads(done.stdout)
    return rows


def summary(rows: list[Row]) -> Iterator[Row]:
    """One row for each that differs in more than its speed: the median of its rounds."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["engine"], row["sparsity"], row["dtype"], row["batch"]), []).append(row)
    for same in groups.values():
        speeds = {key: [row[key] for row in same] for key in ("prefill_tok_s", "decode_tok_s")}
        spread = {f"{key}_range": [min(values), max(values)] for key, values in speeds.items()}
        yield {**same[0], **{key: median(values) for key, values in speeds.items()}, **spread, "rounds": len(same)}


def draw(rows: list[Row], path: Path) -> None:
    """Decode speed by engine: a panel for every model and batch."""
    cells = sorted({(row["model"], row["batch"]) for row in rows}, reverse=True)
    figure, panels = plt.subplots(1, len(cells), figsize=(4.2 * len(cells), 4), layout="constrained", squeeze=False)
    for axes, (model, batch) in zip(panels[0], cells, strict=True):
        here = [row for row in rows if (row["model"], row["batch"]) == (model, batch)]
        labels = [row["engine"] if row["engine"] != "gossamer" else f"gossamer {row['dtype']}, {row['sparsity']:.0%} zeros" for row in here]
        colours = ["tab:green" if row["engine"] == "gossamer" else "tab:grey" for row in here]
        axes.barh(labels, [row["decode_tok_s"] for row in here], color=colours)
        axes.invert_yaxis()
        axes.set(title=f"{model}, batch {batch}", xlabel="decode, tokens/s")
        axes.tick_params(labelsize=7)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the JSON file; a .png is written beside it")
    parser.add_argument("--directory", type=Path, default=Path(".bench"), help="where the models are kept (about 15 GB)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--models", default=",".join(MODELS), help="which of them, separated by commas")
    parser.add_argument("--only", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    models = arguments.models.split(",")
    if arguments.only is not None:
        kind = next(kind for kind in KINDS if kind.name == arguments.only)
        json.dump(run_kind(kind, models[0], arguments.directory, arguments.threads, _SHAPES), sys.stdout)
        return
    kinds = [kind for kind in KINDS if kind.package is None or importlib.util.find_spec(kind.package)]
    for model in models:
        for kind in kinds:
            prepare(model, kind, arguments.directory)
    rows: list[Row] = []
    for round_number in range(arguments.rounds):
        for model in models:
            for kind in kinds:
                print(f"round {round_number + 1} of {arguments.rounds}: {model}, {kind.name}", file=sys.stderr)
                rows += one_process(kind, model, arguments.directory, arguments.threads)
    result = {**context(), "rows": list(summary(rows))}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    draw(result["rows"], arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
