"""Plot spmm_bench's JSON: speed-up over cuBLASLt against sparsity for each n, and the share of the read ceiling by size.

python benchmarks/kernels/plot_spmm.py benchmarks/results/spmm_h100.json benchmarks/results/spmm_h100
"""

import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(math.log(v) for v in values) / len(values))


def best_by_point(rows: list[dict]) -> dict[tuple[int, float], dict[tuple[int, int], float]]:
    """(n, sparsity) -> (m, k) -> best speed-up of all our kernels."""
    points: dict = defaultdict(dict)
    for row in rows:
        shapes, shape = points[row["n"], row["sparsity"]], (row["m"], row["k"])
        shapes[shape] = max(shapes.get(shape, 0.0), row["speedup"])
    return points


def table(points: dict) -> str:
    """The geometric means, the weakest shape in brackets, as Markdown."""
    sparsities = sorted({s for _, s in points})
    lines = ["| n | " + " | ".join(f"{100 * s:.0f} %" for s in sparsities) + " |", "|---" * (len(sparsities) + 1) + "|"]
    for n in sorted({n for n, _ in points}):
        cells = [points[n, s].values() for s in sparsities]
        lines.append(f"| {n} | " + " | ".join(f"{geometric_mean(list(c)):.2f} ({min(c):.2f})" for c in cells) + " |")
    return "\n".join(lines)


def plot_speedup(points: dict, title: str, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    sparsities = sorted({s for _, s in points})
    for n in sorted({n for n, _ in points}):
        means = [geometric_mean(list(points[n, s].values())) for s in sparsities]
        axes.plot([100 * s for s in sparsities], means, marker="o", label=f"n = {n}")
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle="--")
    axes.annotate("dense (cuBLASLt)", (100 * sparsities[0], 1.02), fontsize=8)
    axes.set_xlabel("sparsity, %")
    axes.set_ylabel("speed-up, geometric mean of the shapes")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def plot_roofline(rows: list[dict], title: str, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    series: dict = defaultdict(list)
    for row in rows:
        if row["n"] == 8 and (row["kernel"] == "bitmap") == (row["sparsity"] < 0.85):
            megabytes = row["gbps"] * row["us"] / 1e3
            series[row["kernel"], row["sparsity"]].append((megabytes, row["percent_of_read"]))
    for (kernel, sparsity), values in sorted(series.items()):
        values.sort()
        axes.plot(*zip(*values, strict=True), marker="o", label=f"{kernel}, {100 * sparsity:.0f} %")
    axes.set_xscale("log")
    axes.set_ylim(0, 100)
    axes.set_xlabel("compressed weight, MB (n = 8)")
    axes.set_ylabel("share of the measured read ceiling, %")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    source, stem = Path(sys.argv[1]), sys.argv[2]
    rows = [row for row in json.loads(source.read_text())["rows"] if row["dtype"] == "f16"]
    points = best_by_point(rows)
    title = f"{rows[0]['device']}, {rows[0]['dtype']}, {rows[0]['date']}, commit {rows[0]['commit']}"
    plot_speedup(points, title, Path(f"{stem}_speedup.png"))
    plot_roofline(rows, title, Path(f"{stem}_roofline.png"))
    print(table(points))


if __name__ == "__main__":
    main()
