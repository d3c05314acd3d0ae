"""Measures the CPU's products: runs bench_products and the outside baselines, writes the rows as JSON and draws them.

python benchmarks/cpu/kernels.py build/bench/benchmarks/kernels/bench_products benchmarks/results/cpu_kernels.json [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import numpy as np

from gossamer.bench.context import context

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_BYTES = 256 << 20  # of weights that are cycled through, as in bench_products
_SHAPE = (16384, 4096)


def clean_environment() -> dict[str, str]:
    """This environment without OPENBLAS_* variables, which can slow numpy and torch down several times."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}


def seconds_per_call(call: Callable[[int], object], copies: int) -> float:
    """Median over rounds that cycle through the copies."""
    times = []
    for _ in range(8):
        start = time.perf_counter()
        for i in range(copies):
            call(i)
        times.append((time.perf_counter() - start) / copies)
    return median(times[1:])


def outside_rows() -> list[dict[str, Any]]:
    """Dense products of numpy and, where it is installed, torch, from memory."""
    m, k = _SHAPE
    rows = []
    for n in (1, 8):
        copies = _BYTES // (4 * m * k) + 1
        weights = [np.full((m, k), 0.01, np.float32) for _ in range(copies)]
        x = np.full((k, n), 0.5, np.float32)
        us = 1e6 * seconds_per_call(lambda i, w=weights, x=x: w[i] @ x, copies)  # type: ignore[misc]
        rows.append({"engine": f"numpy {np.__version__}", "dtype": "f32", "m": m, "k": k, "n": n, "us": us, "gbps": 4 * m * k / us / 1e3})
    try:
        import torch
        from torch.nn import functional
    except ImportError:
        return rows
    for n in (1, 8):
        copies = _BYTES // (2 * m * k) + 1
        layers = [torch.full((m, k), 0.01, dtype=torch.bfloat16) for _ in range(copies)]
        inputs = torch.full((n, k), 0.5, dtype=torch.bfloat16)
        us = 1e6 * seconds_per_call(lambda i, w=layers, x=inputs: functional.linear(x, w[i]), copies)  # type: ignore[misc]
        rows.append(
            {"engine": f"torch {torch.__version__}", "dtype": "bf16", "m": m, "k": k, "n": n, "us": us, "gbps": 2 * m * k / us / 1e3}
        )
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Speed-up over our own dense product against sparsity: one panel per number of tokens, the bytes' ratio dashed."""
    tokens = sorted({row["n"] for row in rows})
    figure, panels = plt.subplots(1, len(tokens), figsize=(3 * len(tokens), 3.6), sharey=True, layout="constrained")
    kinds = sorted({(row["dtype"], row["inputs"]) for row in rows})
    for axes, n in zip(panels, tokens, strict=True):
        for dtype, inputs in kinds:
            line = [r for r in rows if (r["dtype"], r["inputs"], r["n"], r["m"], r["k"]) == (dtype, inputs, n, *_SHAPE)]
            if not line:
                continue
            x = [100 * row["sparsity"] for row in line]
            axes.plot(x, [row["speedup"] for row in line], marker="o", label=f"{dtype} weights, {inputs} inputs")
            axes.plot(x, [row["byte_ratio"] for row in line], "--", color="grey", linewidth=1)
        axes.set(title=f"{n} token{'s' if n > 1 else ''}", xlabel="sparsity, %")
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="speed-up over dense", ylim=(0, None))
    panels[0].legend(fontsize=7)
    figure.suptitle(f"{_SHAPE[0]} × {_SHAPE[1]} from memory; dashed: ratio of bytes", fontsize=9)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, help="the built bench_products")
    parser.add_argument("output", type=Path, help="the JSON file; a .png is written beside it")
    parser.add_argument("--rounds", type=int, default=15, help="paired rounds per shape")
    parser.add_argument("--outside-rows", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.outside_rows:
        json.dump(outside_rows(), sys.stdout)
        return
    done = subprocess.run([arguments.program, str(arguments.rounds)], check=True, stdout=subprocess.PIPE)
    rows = json.loads(done.stdout)
    outside = subprocess.run(
        [sys.executable, __file__, "-", "-", "--outside-rows"], check=True, stdout=subprocess.PIPE, env=clean_environment()
    )
    result = {**context(), "rows": rows, "outside": json.loads(outside.stdout)}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    draw([row for row in rows if row["where"] == "memory" and row["sparsity"] > 0], arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
