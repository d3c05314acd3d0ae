"""From what the ranks said to rows of the results."""

from __future__ import annotations

import statistics
from typing import Any

from plan import Cell

SCORE_TOLERANCE = 0.05  # of log-probabilities: half-precision activations, sums in another order
READ_GBPS = 3121.0  # what a reading kernel got of an H100's memory (spmm_h100.json)


def compare(expected: dict[str, Any] | None, found: dict[str, Any]) -> dict[str, Any]:
    """Several ranks against one: `equal_tokens` from the start of each prompt's continuation, the largest difference of scores."""
    if expected is None or "error" in found:
        return {"ok": False, "error": found.get("error", "one rank gave nothing"), "output": found.get("output", "")[-600:]}
    pairs = [pair for rows in zip(expected["scores"], found["scores"], strict=True) for pair in zip(*rows, strict=True)]
    difference = max(abs(a - b) for a, b in pairs)
    equal = [equal_start(*both) for both in zip(expected["greedy"], found["greedy"], strict=True)]
    tokens = len(expected["greedy"][0])
    return {"max_score_difference": difference, "equal_tokens": equal, "tokens": tokens, "ok": difference <= SCORE_TOLERANCE}


def equal_start(a: list[int], b: list[int]) -> int:
    """How many tokens are equal from the start."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))


def row_of(entry: dict[str, Any], cell: Cell) -> dict[str, Any]:
    """The fields of e2e_h100.json and those of several GPUs; speeds are means over the repeats."""
    decode, batch = statistics.mean(entry["decode_tok_s"]), entry["batch"]
    middle = entry["prompt_tokens"] + entry["new_tokens"] / 2
    read = entry["weight_bytes"] + batch * middle * entry["kv_bytes_per_token"]
    return {
        "dtype": entry["dtype"],
        "batch": batch,
        "prompt_tokens": entry["prompt_tokens"],
        "new_tokens": entry["new_tokens"],
        "context": entry["prompt_tokens"] + entry["new_tokens"],
        "prefill_tok_s": statistics.mean(entry["prefill_tok_s"]),
        "decode_tok_s": decode,
        "decode_tok_s_std": statistics.stdev(entry["decode_tok_s"]) if len(entry["decode_tok_s"]) > 1 else 0.0,
        "repeats": len(entry["decode_tok_s"]),
        "tokens_per_gpu_s": decode / cell.gpus,
        "step_ms": 1e3 * batch / decode,
        "roofline_ms": read / READ_GBPS / 1e6,
        "read_gbps": READ_GBPS,
        "weight_gb_per_gpu": entry["weight_bytes"] / 1e9,
        "peak_gb": max(entry["gpu_memory_mib"], default=0) * 2**20 / 1e9,
        "preemptions": entry["preemptions"],
        "load_s": entry["load_s"],
        "peer": None,
        "peer_decode_tok_s": None,
        "device": entry["device"],
    }


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What tensor parallelism must reach, from the rows that are there; the better of the two all-reduces counts."""

    def best(field: str, model: str, sparsity: float, gpus: int, batch: int | None = 8) -> float | None:
        found = [
            row[field]
            for row in rows
            if (row["model"], row["sparsity"], row["gpus"], row["new_tokens"]) == (model, sparsity, gpus, 128)
            and batch in (None, row["batch"])
        ]
        return max(found, default=None)

    def ratio(what: str, target: float, a: float | None, b: float | None) -> dict[str, Any]:
        value = a / b if a is not None and b is not None else None
        return {"what": what, "target": target, "value": value, "ok": None if value is None else value >= target}

    speed, each = "decode_tok_s", "tokens_per_gpu_s"
    dense = ("opt-66b", 0.0, 2)
    found = [
        ratio("opt-30b dense, batch 8: two GPUs / one", 1.65, best(speed, "opt-30b", 0.0, 2), best(speed, "opt-30b", 0.0, 1)),
        ratio("opt-30b 60 %, batch 8: two GPUs / one", 1.5, best(speed, "opt-30b", 0.6, 2), best(speed, "opt-30b", 0.6, 1)),
    ]
    for sparsity, target in ((0.8, 2.4), (0.6, 1.85)):
        what = f"opt-66b, tokens per GPU-second: {sparsity:.0%} on one GPU / dense on two"
        found.append(ratio(f"{what}, batch 8", target, best(each, "opt-66b", sparsity, 1), best(each, *dense)))
        found.append(ratio(f"{what}, best batch", target, best(each, "opt-66b", sparsity, 1, None), best(each, *dense, None)))
    return found
