"""Draws a results file: weights in memory, decode speed and perplexity against sparsity.

python benchmarks/end_to_end/plot.py benchmarks/results/cpu_demo.json cpu_demo.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG of three panels; a decode line per batch and prompt length."""
    figure, (size, speed, quality) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    shapes = sorted({(row["batch"], row["prompt_tokens"], row["new_tokens"]) for row in rows})
    for shape in shapes:
        line = sorted((r for r in rows if (r["batch"], r["prompt_tokens"], r["new_tokens"]) == shape), key=lambda r: r["sparsity"])
        x = [100 * row["sparsity"] for row in line]
        speed.errorbar(
            x,
            [row["decode_tok_s"] for row in line],
            [row.get("decode_tok_s_std", 0) for row in line],
            marker="o",
            capsize=3,
            label=f"batch {shape[0]}, prompt {shape[1]}",
        )
        if shape == shapes[0]:
            size.plot(x, [row["weight_bytes"] / 1e6 for row in line], marker="o")
            quality.errorbar(x, [r["perplexity"] for r in line], [r["perplexity_se"] for r in line], marker="o", capsize=3)
    for axes, label in ((size, "weights in memory, MB"), (speed, "decode, tokens/s"), (quality, "perplexity ± standard error")):
        axes.set(xlabel="sparsity of the projections, %", ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
    speed.legend()
    figure.suptitle(f"{rows[0]['model']} on {rows[0]['device']}, commit {rows[0]['commit']}", fontsize=9)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    draw(json.loads(Path(sys.argv[1]).read_text())["rows"], Path(sys.argv[2]))
