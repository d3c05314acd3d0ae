"""What is measured: cells of the table, each one launch, and how long it may take."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BATCH_8 = (8, 64, 128)
BATCH_32 = (32, 64, 128)

# For trying the programs without GPUs.
TINY = {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "vocab_size": 512,
    "hidden_size": 64,
    "word_embed_proj_dim": 64,
    "ffn_dim": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}


@dataclass(frozen=True)
class Cell:
    """Shapes are (batch, prompt tokens, new tokens)."""

    model: str
    sparsity: float
    gpus: int
    shapes: tuple[tuple[int, int, int], ...]
    all_reduce: str = "nccl"
    repeats: int = 2
    limit_s: int = 60
    profile: bool = False

    def job(self) -> dict[str, Any]:
        config: Any = TINY if self.model == "tiny" else json.loads((CONFIGS / f"{self.model}.json").read_text())
        options: dict[str, Any] = {"all_reduce": self.all_reduce} if self.gpus > 1 else {}
        if self.model != "tiny":
            options["gpu_memory_utilization"] = 0.95
        shared = {"shapes": self.shapes, "repeats": self.repeats, "profile": self.profile}
        return {"kind": "speed", "config": config, "sparsity": self.sparsity, "options": options, **shared}


def both(*arguments: Any, **keywords: Any) -> list[Cell]:
    return [Cell(*arguments, all_reduce=kind, **keywords) for kind in ("nccl", "one-shot")]


def batches(*sizes: int) -> tuple[tuple[int, int, int], ...]:
    return tuple((size, 64, 128) for size in sizes)


def up_to_two() -> list[Cell]:
    """Issue by issue: decode on two GPUs against one; sparsity instead of GPUs, at batch 8 and at the best batch; OPT-175B on two."""
    return [
        Cell("opt-30b", 0.0, 1, (BATCH_8,), repeats=3),
        Cell("opt-30b", 0.6, 1, (BATCH_8,), repeats=3),
        *both("opt-30b", 0.0, 2, (BATCH_8,), repeats=3, profile=True),
        *both("opt-30b", 0.6, 2, (BATCH_8,), repeats=3, profile=True),
        Cell("opt-66b", 0.8, 1, batches(8, 16, 32, 64), limit_s=80),
        Cell("opt-66b", 0.6, 1, batches(8, 16, 24), limit_s=80),
        Cell("opt-66b", 0.0, 2, batches(8, 16, 32), limit_s=80),
        Cell("opt-175b", 0.8, 2, ((16, 64, 512), BATCH_8), repeats=1, limit_s=100),
        Cell("opt-175b", 0.7, 2, (BATCH_8,), repeats=1, limit_s=60),
        Cell("opt-66b", 0.8, 2, (BATCH_8, BATCH_32)),
        Cell("opt-66b", 0.6, 2, (BATCH_8, BATCH_32)),
        Cell("opt-175b", 0.8, 2, (BATCH_32,), repeats=1),
        *both("opt-66b", 0.0, 2, (BATCH_8,), profile=True)[1:],
    ]


def four() -> list[Cell]:
    """Dense OPT-175B takes 87 GB on each of four GPUs: left out."""
    cells = []
    for model, sparsities in {"opt-66b": (0.0, 0.6, 0.8), "opt-175b": (0.6, 0.8)}.items():
        for sparsity in sparsities:
            cells += both(model, sparsity, 4, (BATCH_8, BATCH_32), repeats=1, profile=True, limit_s=70)
    return cells


def tiny() -> list[Cell]:
    return [Cell("tiny", 0.5, ranks, ((2, 8, 8), (4, 8, 8)), repeats=1) for ranks in (1, 2)]


PLANS = {"two": up_to_two, "four": four, "tiny": tiny}
