"""ALPS: a layer pruned as one optimisation problem (Meng et al. 2024, arXiv 2406.07831)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gossamer.prune.arrays import module_of, on_tensor_cores
from gossamer.prune.linear_algebra import cholesky, damped, diagonal_of, lower_gram, lower_inverse
from gossamer.prune.masks import lowest, num_dropped

__all__ = ["alps"]

Matrix = npt.NDArray[np.float32]

_MAX_ITERATIONS = 60
_PERIOD = 2  # iterations between updates of the penalty
_FIRST_PENALTY = 0.1
# (share of the support that changed since the last update, what the penalty is multiplied with): the first that is reached.
_GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
_CG_STEPS = 10


def alps(
    weight: Matrix,
    moments: npt.NDArray[np.float64],
    sparsity: float,
    *,
    correction: Matrix | None = None,
    pattern: tuple[int, int] | None = None,
    damping: float = 0.01,
) -> Matrix:
    """The weight Ŵ with `sparsity` of it zero that least changes the outputs: min E‖Ŵx − t‖² + λ‖Ŵ − W‖², t = Wx + d.

    The paper's problem (1) with its λ, solved in its two steps: ADMM on the support (equation 4, penalty raised as the support settles),
    then conjugate gradients on that support, all columns at once (algorithm 2). The features are scaled to unit second moment first, as
    in the paper's appendix. Where the paper has (H + ρ)⁻¹ (H W + ρ D − V), this has W + (H + ρ)⁻¹ (ρ (D − W) − V): rounding is then
    relative to what changes, and a GPU's tensor cores are exact enough for the support.

    Parameters
    ----------
    weight : f32 [m, k]
    moments : f64 [k, k], second moments E[x xᵀ] of the inputs
    sparsity : 0 ≤ s < 1, of the whole matrix; not used with a pattern
    correction : f32 [k, m], E[x dᵀ] where d is what the outputs should be besides Wx; None: nothing
    pattern : (n, m): n zeros in every m columns of a row
    damping : λ in terms of the mean diagonal of the moments

    Returns
    -------
    f32 [m, k]; what is zero in `weight` stays zero
    """
    xp = module_of(weight)
    full = damped(moments, damping)
    root = xp.sqrt(diagonal_of(full))
    full /= root
    full /= root[:, None]
    hessian = full.astype(np.float32)
    del full
    scale = (1 / root).astype(np.float32)[:, None]
    start = xp.ascontiguousarray(weight.T / scale)  # [k, m]
    drift = None if correction is None else xp.ascontiguousarray(correction * scale)
    support = _Support(start, sparsity, pattern)

    keep = support.of(start)
    sparse = start * keep
    dual = xp.zeros_like(start)
    penalty = _FIRST_PENALTY
    inverse = _shifted_inverse(hessian, penalty)
    settled = keep
    for iteration in range(1, _MAX_ITERATIONS + 1):
        pull = sparse - start
        pull *= penalty
        pull -= dual
        if drift is not None:
            pull += drift
        with on_tensor_cores(xp):
            dense = inverse @ pull
        dense += start
        sparse = dense + dual / penalty
        keep = support.of(sparse)
        sparse *= keep
        dense -= sparse
        dense *= penalty
        dual += dense
        if iteration % _PERIOD == 0:
            changed = int(xp.count_nonzero(keep != settled)) / max(1, int(xp.count_nonzero(keep)))
            settled = keep
            if changed == 0:
                break
            penalty *= next(factor for share, factor in _GROWTH if changed >= share)
            inverse = _shifted_inverse(hessian, penalty)
    del inverse, dual, dense, pull
    target = hessian @ start
    if drift is not None:
        target += drift
    return xp.ascontiguousarray((_least_squares(hessian, target, sparse, keep) * scale).T)


def _shifted_inverse(hessian: Matrix, shift: float) -> Matrix:
    """(hessian + shift · 1)⁻¹ by Cholesky, f32: the shift keeps it well conditioned, and conjugate gradients have the last word."""
    shifted = hessian.copy()
    diagonal_of(shifted)[:] += shift
    factor = lower_inverse(cholesky(shifted))
    with on_tensor_cores(module_of(hessian)):
        return lower_gram(factor)


class _Support:
    """Which entries of a [k, m] matrix may stay: the largest of those that were not zero in the beginning."""

    def __init__(self, start: Matrix, sparsity: float, pattern: tuple[int, int] | None) -> None:
        self._zero = start == 0
        self._any_zero = bool(self._zero.any())
        self._count = num_dropped(start.size, sparsity)
        self._pattern = pattern

    def of(self, matrix: Matrix) -> npt.NDArray[np.bool_]:
        xp = module_of(matrix)
        sizes = xp.abs(matrix)
        if self._any_zero:
            sizes[self._zero] = -1
        if self._pattern is None:
            return ~lowest(sizes, self._count)
        drop, group = self._pattern
        whole = len(sizes) // group * group
        keep = xp.ones(sizes.shape, np.bool_)
        ranks = xp.argsort(sizes[:whole].reshape(-1, group, sizes.shape[1]), axis=1, kind="stable")[:, :drop]
        xp.put_along_axis(keep[:whole].reshape(-1, group, sizes.shape[1]), ranks, False, axis=1)
        if self._any_zero:
            keep &= ~self._zero
        return keep


def _least_squares(hessian: Matrix, target: Matrix, start: Matrix, keep: npt.NDArray[np.bool_]) -> Matrix:
    """Conjugate gradients for hessian · x = target on every column's support; the unit diagonal makes a preconditioner needless."""
    x = start * keep
    residual = (target - hessian @ x) * keep
    direction = residual.copy()
    energy = (residual * residual).sum(axis=0)
    for _ in range(_CG_STEPS):
        image = (hessian @ direction) * keep
        step = _quotient(energy, (direction * image).sum(axis=0))
        x += step * direction
        residual -= step * image
        next_energy = (residual * residual).sum(axis=0)
        direction *= _quotient(next_energy, energy)
        direction += residual
        energy = next_energy
    return x


def _quotient(above: Matrix, below: Matrix) -> Matrix:
    """above / below, 0 where `below` is not positive."""
    xp = module_of(above)
    return xp.where(below > 0, above / xp.maximum(below, np.finfo(np.float32).tiny), np.float32(0))
