"""SparseGPT: weights dropped column by column, the others moved to make up for it (Frantar & Alistarh 2023, arXiv 2301.00774)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gossamer.prune.arrays import module_of
from gossamer.prune.linear_algebra import inverse_factor
from gossamer.prune.masks import lowest, num_dropped

__all__ = ["sparsegpt"]

Matrix = npt.NDArray[np.float32]

BLOCK = 128  # columns whose mask is chosen together (the paper's B_s) and whose updates are applied to the rest at once
_PANEL = 16  # columns within a block whose updates to the rest of the block are batched


def sparsegpt(
    weight: Matrix, moments: npt.NDArray[np.float64], sparsity: float, *, pattern: tuple[int, int] | None = None, damping: float = 0.01
) -> Matrix:
    """The weight with `sparsity` of it zero, the rest updated so that the outputs change as little as possible.

    For every column c in order, a dropped weight's error e = w_c / U_cc is taken from the row's later columns: w -= e · U_c (Algorithm 1;
    U is the upper Cholesky factor of the inverse of the damped second moments). Of every block of 128 columns the weights with the least
    (w / U_cc)² are dropped, the same share of each block, wherever they are in it; with a pattern (n, m), the n least of every m
    columns of a row. What is zero stays zero.

    Parameters
    ----------
    weight : f32 [m, k]
    moments : f64 [k, k], second moments of the inputs
    sparsity : 0 ≤ s < 1; not used with a pattern
    damping : times the mean diagonal, added to the diagonal of the moments

    Returns
    -------
    f32 [m, k]
    """
    if pattern is not None and (not 0 < pattern[0] < pattern[1] or _PANEL % pattern[1]):
        raise ValueError(f"a pattern (n, m) must have 0 < n < m and m one of 2, 4, 8, 16, not {pattern}")
    xp = module_of(weight)
    cols = weight.shape[1]
    factor = inverse_factor(moments, damping).astype(np.float32)
    scale = xp.diagonal(factor)
    transposed = xp.array(weight.T, np.float32, order="C")  # [k, m]: a column of the weight is contiguous
    transposed[xp.diagonal(moments) == 0] = 0  # features that are never excited
    zero = transposed == 0
    for begin in range(0, cols, BLOCK):
        end = min(begin + BLOCK, cols)
        block = transposed[begin:end]
        keep = xp.ones(block.shape, np.bool_)
        if pattern is None:
            scores = xp.where(zero[begin:end], np.float32(-1), (block / scale[begin:end, None]) ** 2)  # what is zero goes first
            keep = ~lowest(scores, num_dropped(block.size, sparsity))
        errors = xp.empty_like(block)
        for first in range(begin, end, _PANEL):
            last = min(first + _PANEL, end)
            for c in range(first, last):
                if pattern is not None and (c - begin) % pattern[1] == 0:
                    group = slice(c - begin, min(c - begin + pattern[1], end - begin))
                    keep[group] = _keep_of_group((block[group] / scale[begin:end][group, None]) ** 2, pattern[0])
                column, error = block[c - begin], errors[c - begin]
                xp.multiply(column, ~keep[c - begin], out=error)
                column -= error
                error /= scale[c]
                if c + 1 < last:
                    transposed[c + 1 : last] -= factor[c, c + 1 : last, None] * error
            transposed[last:end] -= factor[first:last, last:end].T @ errors[first - begin : last - begin]
        transposed[end:] -= factor[begin:end, end:].T @ errors
    transposed[zero] = 0
    return xp.ascontiguousarray(transposed.T)


def _keep_of_group(scores: Matrix, count: int) -> npt.NDArray[np.bool_]:
    """Mask of all but the `count` lowest of every column; of equal ones the first go."""
    xp = module_of(scores)
    keep = xp.ones(scores.shape, np.bool_)
    xp.put_along_axis(keep, xp.argsort(scores, axis=0, kind="stable")[:count], False, axis=0)
    return keep
