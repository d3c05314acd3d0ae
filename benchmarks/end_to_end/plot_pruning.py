"""Draws perplexity against sparsity, a line per pruning method and a panel per text.

python benchmarks/end_to_end/plot_pruning.py benchmarks/results/pruning_smollm2.json benchmarks/results/pruning_smollm2.png
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
    texts = sorted({row["text"] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows if row["method"] != "dense"))
    figure, panels = plt.subplots(1, len(texts), figsize=(5.5 * len(texts), 4), layout="constrained", squeeze=False)
    for axes, text in zip(panels[0], texts, strict=True):
        own = [row for row in rows if row["text"] == text]
        for row in own:
            if row["method"] == "dense":
                axes.axhline(row["perplexity"], color="black", linestyle=":", label="dense")
        for method in methods:
            line = sorted((r for r in own if r["method"] == method), key=lambda r: r["sparsity"])
            x = [100 * r["sparsity"] for r in line]
            axes.errorbar(x, [r["perplexity"] for r in line], [r["perplexity_se"] for r in line], marker="o", capsize=3, label=method)
        axes.set(title=text, xlabel="sparsity of the projections, %", ylabel="perplexity ± standard error", yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    draw(json.loads(Path(sys.argv[1]).read_text())["rows"], Path(sys.argv[2]))
