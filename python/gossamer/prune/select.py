"""Which tensors are pruned: the projections of attention and MLP; never embeddings, the head, norms or biases."""

from __future__ import annotations

import re

__all__ = ["is_prunable"]

_PROJECTION = re.compile(
    r"(?:^|\.)layers\.\d+\.(?:\w+\.)*"
    r"(?:q_proj|k_proj|v_proj|o_proj|out_proj|gate_proj|up_proj|down_proj|fc1|fc2)\.weight"
)


def is_prunable(name: str, shape: tuple[int, ...]) -> bool:
    """Whether the tensor of this logical name and shape is a projection inside a decoder layer."""
    return len(shape) == 2 and _PROJECTION.search(name) is not None and name.endswith(".weight")
