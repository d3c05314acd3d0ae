"""One budget of zeros for the whole model, spread so that the parts that suffer least give the most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["allocate", "parts_of"]

# The divergence that pruning a part causes grows by e^(slope · Δsparsity).
_SLOPE = 8.0
_SPREAD = 0.15  # how far a part's sparsity may be from the whole's
_HIGHEST = 0.98
_ATTENTION = ".self_attn."


def parts_of(names: Sequence[str]) -> list[list[str]]:
    """A layer's weights in the parts that get a sparsity of their own: those of attention and those of the MLP."""
    attention = [name for name in names if _ATTENTION in name]
    rest = [name for name in names if name not in attention]
    return [part for part in (attention, rest) if part]


def allocate(sensitivities: Mapping[tuple[str, ...], float], sizes: Mapping[str, int], sparsity: float) -> dict[str, float]:
    """Weight name → sparsity, `sparsity` on average over all weights.

    If pruning part i to s costs a_i e^(c s) and costs add up, the least sum for a given number of zeros has a_i c e^(c s_i) the same per
    weight in all parts: s_i = const - ln(a_i / n_i) / c, here within ±0.15 of the average.

    Parameters
    ----------
    sensitivities : part (names of weights) → a measured cost of pruning it, ≥ 0
    sizes : weight name → number of its weights
    """
    count = {part: sum(sizes[name] for name in part) for part in sensitivities}
    floor = 1e-6 * max(max(sensitivities.values()), 1e-30)  # a part that pruning does not touch at all
    demand = {part: math.log(max(cost, floor) / count[part]) / _SLOPE for part, cost in sensitivities.items()}
    lowest, highest = max(0.0, sparsity - _SPREAD), min(_HIGHEST, sparsity + _SPREAD)
    if highest < sparsity:
        return dict.fromkeys(sizes, sparsity)

    def spread(level: float) -> dict[tuple[str, ...], float]:
        return {part: min(max(level - own, lowest), highest) for part, own in demand.items()}

    total = sum(count.values())
    low, high = lowest + min(demand.values()), highest + max(demand.values())
    for _ in range(60):
        middle = (low + high) / 2
        zeros = sum(share * count[part] for part, share in spread(middle).items())
        low, high = (middle, high) if zeros < sparsity * total else (low, middle)
    return {name: round(share, 6) for part, share in spread(high).items() for name in part}
