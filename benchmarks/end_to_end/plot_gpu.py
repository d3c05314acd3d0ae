"""Draws results of models on a GPU: decode speed by batch and sparsity beside the peer, and each step's share of its roofline.

python benchmarks/end_to_end/plot_gpu.py benchmarks/results/e2e_h100.json benchmarks/results/e2e_h100.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Row = dict[str, Any]


def best(rows: list[Row]) -> list[Row]:
    """The fastest row of each model, sparsity, values and shape, whatever else it ran with."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = row["model"], round(row["sparsity"], 2), row["dtype"], row["batch"], row["prompt_tokens"], row["new_tokens"]
        if key not in found or row["decode_tok_s"] > found[key]["decode_tok_s"]:
            found[key] = row
    return [found[key] for key in sorted(found)]


def draw(rows: list[Row], path: Path) -> None:
    """Write a PNG: a bar for each row, grouped by model and batch, once as tokens per second and once as a share of the roofline."""
    rows = best([row for row in rows if row["new_tokens"] >= 64])
    figure, (speed, share) = plt.subplots(2, 1, figsize=(max(6.0, 0.55 * len(rows)), 7.2), layout="constrained", sharex=True)
    names = [f"{r['model']} {r['dtype']}\nbatch {r['batch']}, {r['sparsity']:.0%}" for r in rows]
    places = range(len(rows))
    colours = [plt.get_cmap("viridis")(r["sparsity"]) for r in rows]
    speed.bar(places, [r["decode_tok_s"] for r in rows], color=colours, yerr=[r.get("decode_tok_s_std") or 0 for r in rows], capsize=2)
    peers = {(r["model"], r["batch"], r["prompt_tokens"]): r for r in rows if r.get("peer_decode_tok_s")}
    for place, row in zip(places, rows, strict=True):
        peer = peers.get((row["model"], row["batch"], row["prompt_tokens"]))
        if peer:
            label = peer["peer"] if "_drawn" not in peer else None
            peer["_drawn"] = True
            speed.hlines(peer["peer_decode_tok_s"], place - 0.45, place + 0.45, color="crimson", label=label)
    share.bar(places, [100 * r["roofline_ms"] / r["step_ms"] for r in rows], color=colours)
    speed.set(ylabel="decode, tokens/s", yscale="log")
    share.set(ylabel="roofline ÷ step, %", ylim=(0, 100), xticks=places)
    share.set_xticklabels(names, rotation=90, fontsize=7)
    for axes in (speed, share):
        axes.grid(alpha=0.3, axis="y")
    if peers:
        speed.legend()
    first = rows[0]
    figure.suptitle(f"{first['device']}, read ceiling {first['read_gbps']:.0f} GB/s, commit {first['commit']}", fontsize=9)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    draw(json.loads(Path(sys.argv[1]).read_text())["rows"], Path(sys.argv[2]))
