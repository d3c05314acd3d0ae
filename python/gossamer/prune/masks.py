"""Which weights a one-shot method keeps: scores, and the smallest of them dropped."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from gossamer.prune.arrays import module_of

__all__ = ["ALLOCATIONS", "METHODS", "keep_masks", "lowest", "num_dropped", "pattern_mask"]

METHODS = ("auto", "alps", "sparsegpt", "wanda", "magnitude")
ALLOCATIONS = ("auto", "uniform", "sensitivity")

_BLOCK_ELEMENTS = 1 << 20  # scores held per thread
_SAMPLE = 1 << 18  # of the scores, to find about where the count-th lowest is


def num_dropped(count: int, sparsity: float) -> int:
    """How many of `count` weights a sparsity drops: the nearest integer, halves to even."""
    return round(count * sparsity)


def keep_masks(
    weight: npt.NDArray[Any], sparsities: Iterable[float], norms: npt.NDArray[np.floating[Any]] | None = None
) -> list[npt.NDArray[np.bool_]]:
    """Masks of the weights to keep, one per sparsity.

    Every output row drops the same number of weights, those with the lowest score |W| · norms. Equal scores are dropped from the highest
    column down, so the result is a function of the arguments alone. A weight that is zero already is never kept.

    Parameters
    ----------
    weight : [m, k], any float dtype, on the host or a GPU (the norms and masks too, then)
    sparsities : each 0 ≤ s < 1; `num_dropped(k, s)` weights of every row are dropped
    norms : [k] or None
        L2 norms of the input features: Wanda (Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models).
        None compares magnitudes.

    Returns
    -------
    list of bool [m, k]
    """
    xp = module_of(weight)
    rows, cols = weight.shape
    wanted = list(sparsities)
    if norms is not None and norms.shape != (cols,):
        raise ValueError(f"norms must have one entry per input feature, {cols}, not shape {norms.shape}")
    for sparsity in wanted:
        if not 0 <= sparsity < 1:
            raise ValueError(f"sparsity must be at least 0 and less than 1, not {sparsity}")
    scale = None if norms is None else norms.astype(np.float32)
    masks = [xp.empty((rows, cols), np.bool_) for _ in wanted]

    def do_block(begin: int, end: int) -> None:
        scores = xp.abs(weight[begin:end].astype(np.float32))
        nonzero = scores != 0
        if scale is not None:
            scores *= scale
        for mask, sparsity in zip(masks, wanted, strict=True):
            mask[begin:end] = _drop_lowest(scores, num_dropped(cols, sparsity)) & nonzero

    if xp is not np:
        do_block(0, rows)
        return masks
    step = max(1, _BLOCK_ELEMENTS // max(1, cols))
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        for done in [pool.submit(do_block, begin, min(begin + step, rows)) for begin in range(0, rows, step)]:
            done.result()
    return masks


def pattern_mask(
    weight: npt.NDArray[Any], pattern: tuple[int, int], norms: npt.NDArray[np.floating[Any]] | None = None
) -> npt.NDArray[np.bool_]:
    """Mask that drops the n lowest scores |W| · norms of every m columns of a row, (n, m) = pattern; of equal ones the rightmost.

    Columns after the last whole group all stay. A weight that is zero already is never kept.
    """
    xp = module_of(weight)
    drop, group = pattern
    rows, cols = weight.shape
    whole = cols // group * group
    scores = xp.abs(weight.astype(np.float32))
    keep = scores != 0
    if norms is not None:
        scores *= norms.astype(np.float32)
    groups = scores[:, :whole].reshape(rows, -1, group)
    ranks = group - 1 - xp.argsort(groups[:, :, ::-1], axis=2, kind="stable")[:, :, :drop]
    kept = xp.ones(groups.shape, np.bool_)
    xp.put_along_axis(kept, ranks, False, axis=2)
    keep[:, :whole] &= kept.reshape(rows, whole)
    return keep


def _drop_lowest(scores: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.bool_]:
    """Mask of all but the `count` lowest scores (≥ 0) of each row; of equal ones the leftmost stay."""
    xp = module_of(scores)
    if count == 0:
        return xp.ones(scores.shape, np.bool_)
    threshold = _bisected(scores, count) if xp is not np else np.partition(scores, count - 1, axis=1)[:, count - 1 : count]
    keep = scores > threshold
    tied = scores == threshold
    room = scores.shape[1] - count - xp.count_nonzero(keep, axis=1)  # how many of the tied stay
    crowded = xp.flatnonzero(xp.count_nonzero(tied, axis=1) > room)
    keep |= tied
    if crowded.size:
        ranks = xp.cumsum(tied[crowded], axis=1)
        keep[crowded] &= ~tied[crowded] | (ranks <= room[crowded][:, None])
    return keep


def _bisected(scores: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    """The count-th lowest score of each row, [rows, 1]; floats that are not negative are ordered as their bits. CuPy's partition sorts."""
    xp = module_of(scores)
    bits = scores.view(np.int32)
    low = xp.full((len(scores), 1), -1, np.int32)
    high = bits.max(axis=1, keepdims=True)
    for _ in range(31):
        middle = low + (high - low) // 2
        enough = (bits <= middle).sum(axis=1, keepdims=True) >= count
        low, high = xp.where(enough, low, middle), xp.where(enough, middle, high)
    return high.view(np.float32)


def lowest(scores: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.bool_]:
    """Mask of the `count` lowest scores of the whole array; of equal ones the first."""
    xp = module_of(scores)
    flat = scores.reshape(-1)
    if count == 0:
        return xp.zeros(scores.shape, np.bool_)
    threshold = _lowest_of_all(flat, count)
    mask = flat <= threshold
    excess = int(xp.count_nonzero(mask)) - count
    if excess:
        mask[xp.flatnonzero(flat == threshold)[-excess:]] = False
    return mask.reshape(scores.shape)


def _lowest_of_all(flat: npt.NDArray[np.float32], count: int) -> float:
    """The count-th lowest score. Of many scores, a sorted sample says between which two it most likely is, and few are between them."""
    xp = module_of(flat)
    if flat.size > 4 * _SAMPLE:
        sample = xp.sort(flat[:: flat.size // _SAMPLE])
        place, margin = count * len(sample) // flat.size, 4 * math.isqrt(len(sample))
        low, high = sample[max(0, place - margin)], sample[min(len(sample) - 1, place + margin)]
        skipped = int(xp.count_nonzero(flat < low))
        between = flat[(flat >= low) & (flat <= high)]
        if skipped < count <= skipped + len(between):
            flat, count = between, count - skipped
    return float(xp.partition(flat, count - 1)[count - 1])
