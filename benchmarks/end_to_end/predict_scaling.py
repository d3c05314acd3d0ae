"""Predict decode on 1, 2, 4 and 8 GPUs from the SpMM table: bytes, all-reduces, steps. The tables of docs/scaling.md.

python benchmarks/end_to_end/predict_scaling.py benchmarks/results/spmm_h100.json [benchmarks/results/tp_h100.json]

With the second file (benchmarks/tensor_parallel/run.py) what was measured stands beside the prediction.

A product's time is `start + bytes / rate`, fitted over the table's ten shapes for each sparsity and number of tokens. Everything else is
an assumption, named below, to be replaced by measurements.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GPU_BYTES = 85.5e9 * 0.95  # an H100's memory, less what driver and kernels take
KV_RATE = 0.75 * 3.1e12  # bytes a second that paged attention reads the KV cache at
SMALL_US = 14.0  # norms, rotary embedding and KV write, attention's own latency: a layer's kernels that do not shrink with the ranks
STEP_US = 120.0  # once a step: inputs, sampling, what the host adds
# An all-reduce takes START_US + 2 (ranks - 1) / ranks * bytes / BUS_RATE.
START_US = {2: 9.0, 4: 12.0, 8: 17.0}
BUS_RATE = {2: 200e9, 4: 200e9, 8: 200e9}  # of messages of 0.1 to 1 MB; 1 GiB reaches 329, 355 and 361 GB/s

PROMPT, NEW = 64, 128
RANKS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Model:
    """An OPT shape: 12 h² weights a layer."""

    name: str
    layers: int
    hidden: int
    vocab: int = 50272

    def products(self, ranks: int) -> list[tuple[int, int]]:
        """(m, k) of a layer's products on each rank: QKV and MLP-in by rows, attention-out and MLP-out by columns."""
        h = self.hidden
        return [(3 * h // ranks, h), (h, h // ranks), (4 * h // ranks, h), (h, 4 * h // ranks)]

    def kv_bytes_per_token(self, ranks: int) -> float:
        return self.layers * 2 * self.hidden / ranks * 2

    def head_bytes(self, ranks: int) -> float:
        return self.vocab * self.hidden / ranks * 2


MODELS = (Model("OPT-66B", 64, 9216), Model("OPT-175B", 96, 12288))
CASES = [(0.0, 8), (0.6, 8), (0.8, 8), (0.0, 32), (0.6, 32), (0.8, 32)]


def stored_bytes(m: int, k: int, sparsity: float) -> float:
    """fp16; a bitmap holds one bit for every weight and two bytes for those that are left."""
    return m * k * (2.0 if sparsity == 0 else 2 * (1 - sparsity) + 0.125)


@dataclass(frozen=True)
class Fit:
    start_us: float
    rate: float  # bytes a second
    worst: float  # relative error

    def us(self, size: float) -> float:
        return self.start_us + size / self.rate * 1e6


def fit(rows: list[dict], sparsity: float, n: int) -> Fit:
    """Least squares of relative errors over all shapes; of dense products the best cuBLASLt time of the same run."""
    chosen = {
        (r["m"], r["k"]): r["us_cublas"] if sparsity == 0 else r["us"]
        for r in rows
        if r["n"] == n and r["kernel"] == "bitmap" and r["sparsity"] == (sparsity or 0.5)
    }
    assert len(chosen) >= 5, (sparsity, n)
    size = np.array([stored_bytes(m, k, sparsity) for m, k in chosen])
    us = np.array(list(chosen.values()))
    design = np.stack([1 / us, size / us], axis=1)
    start, slope = np.linalg.lstsq(design, np.ones_like(us), rcond=None)[0]
    return Fit(start, 1e6 / slope, float(np.abs(design @ [start, slope] - 1).max()))


def all_reduce_us(ranks: int, size: float) -> float:
    return 0.0 if ranks == 1 else START_US[ranks] + 2 * (ranks - 1) / ranks * size / BUS_RATE[ranks] * 1e6


def predict(model: Model, ranks: int, sparsity: float, batch: int, product: Fit, dense: Fit) -> dict[str, float]:
    """Milliseconds of one decode step in the middle of generation, and bytes per GPU."""
    weights = model.layers * sum(stored_bytes(m, k, sparsity) for m, k in model.products(ranks)) + model.head_bytes(ranks)
    products = model.layers * sum(product.us(stored_bytes(m, k, sparsity)) for m, k in model.products(ranks))
    products += dense.us(model.head_bytes(ranks))
    attention = batch * (PROMPT + NEW / 2) * model.kv_bytes_per_token(ranks) / KV_RATE * 1e6
    message = batch * model.hidden * 2
    reduces = (2 * model.layers + 1) * all_reduce_us(ranks, message)
    step = products + attention + reduces + model.layers * SMALL_US + STEP_US
    kv = batch * (PROMPT + NEW) * model.kv_bytes_per_token(ranks)
    return {
        "weights_gb": weights / 1e9,
        "kv_gb": kv / 1e9,
        "products_ms": products / 1e3,
        "attention_ms": attention / 1e3,
        "all_reduce_ms": reduces / 1e3,
        "step_ms": step / 1e3,
        "tok_s": batch / step * 1e6,
        "tok_s_gpu": batch / step * 1e6 / ranks,
        "fits": weights + kv < GPU_BYTES,
    }


def label_of(sparsity: float) -> str:
    return f"{sparsity:.0%}" if sparsity else "dense"


def print_measured(fits: dict[tuple[float, int], Fit], results: dict) -> None:
    """Milliseconds, predicted / measured, for every measured row that the prediction covers."""
    print("| model | weights | batch | GPUs | sums by | step | products | attention | all-reduce |\n" + "|---" * 9 + "|")
    models = {model.name.lower(): model for model in MODELS}
    keys = ("model", "sparsity", "gpus", "all_reduce", "batch")
    splits = {tuple(row[key] for key in keys): row["us"] for row in results.get("split", [])}
    for row in results.get("rows", []):
        case = (row["sparsity"], row["batch"])
        if row["model"] not in models or case not in fits or (row["prompt_tokens"], row["new_tokens"]) != (PROMPT, NEW):
            continue
        p = predict(models[row["model"]], row["gpus"], *case, fits[case], fits[0.0, row["batch"]])
        split = splits.get(tuple(row[key] for key in keys), {})
        parts = {"products": p["products_ms"], "attention": p["attention_ms"], "all-reduce": p["all_reduce_ms"]}
        cells = [f"{p['step_ms']:.1f} / {row['step_ms']:.1f}"]
        cells += [f"{ms:.1f} / {split[name] / 1e3:.1f}" if name in split else f"{ms:.1f} /" for name, ms in parts.items()]
        label = f"| {row['model']} | {label_of(row['sparsity'])} | {row['batch']} | {row['gpus']} | {row['all_reduce']} | "
        print(label + " | ".join(cells) + " |")


def main() -> None:
    rows = json.loads(Path(sys.argv[1]).read_text())["rows"]
    fits = {case: fit(rows, *case) for case in CASES}
    if len(sys.argv) > 2:
        print_measured(fits, json.loads(Path(sys.argv[2]).read_text()))
        return
    print("| weights | batch | start of a product, µs | rate, GB/s | worst error of the fit |\n|---|---|---|---|---|")
    for (sparsity, n), line in fits.items():
        print(f"| {label_of(sparsity)} | {n} | {line.start_us:.1f} | {line.rate / 1e9:.0f} | {line.worst:.0%} |")
    for model in MODELS:
        print(f"\n### {model.name}\n")
        print("| weights | batch | GPUs | weights, GB | KV, GB | products, ms | attention | all-reduce | step | tokens/s | per GPU |")
        print("|" + "---|" * 11)
        for sparsity, batch in CASES:
            for ranks in RANKS:
                p = predict(model, ranks, sparsity, batch, fits[sparsity, batch], fits[0.0, batch])
                label = f"| {label_of(sparsity)} | {batch} | {ranks} | {p['weights_gb']:.1f} | {p['kv_gb']:.1f} |"
                if not p["fits"]:
                    print(label + " does not fit | | | | | |")
                    continue
                print(
                    f"{label} {p['products_ms']:.1f} | {p['attention_ms']:.1f} | {p['all_reduce_ms']:.1f} | {p['step_ms']:.1f} |"
                    f" {p['tok_s']:.0f} | {p['tok_s_gpu']:.0f} |"
                )


if __name__ == "__main__":
    main()
