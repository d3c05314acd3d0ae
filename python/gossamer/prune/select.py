"""Which tensors are pruned: the projections of attention and MLP; never embeddings, the head, norms or biases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

__all__ = ["is_prunable", "select"]

_PROJECTION = re.compile(
    r"(?:^|\.)layers\.\d+\.(?:\w+\.)*"
    r"(?:q_proj|k_proj|v_proj|o_proj|out_proj|gate_proj|up_proj|down_proj|fc1|fc2)\.weight"
)


def is_prunable(name: str, shape: tuple[int, ...]) -> bool:
    """Whether the tensor of this logical name and shape is a projection inside a decoder layer."""
    return len(shape) == 2 and _PROJECTION.search(name) is not None and name.endswith(".weight")


def select(shapes: Mapping[str, tuple[int, ...]], keep: Sequence[str] = ()) -> list[str]:
    """Names of the tensors to prune: the projections that no shell pattern of `keep` matches (`*.down_proj.*`, `*layers.0.*`).

    Raises
    ------
    ValueError : a pattern that matches no projection, most likely a slip.
    """
    found = [name for name, shape in shapes.items() if is_prunable(name, shape)]
    for pattern in keep:
        if found and not any(fnmatchcase(name, pattern) for name in found):
            raise ValueError(f"no projection is called like {pattern!r}; they are called like {found[0]}, see `gossamer inspect MODEL`")
    return [name for name in found if not any(fnmatchcase(name, pattern) for pattern in keep)]
