"""Dense linear algebra for pruning, on arrays of numpy or CuPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gossamer.prune.arrays import module_of

__all__ = ["cholesky", "damped", "diagonal_of", "inverse_factor", "lower_gram", "lower_inverse"]

Symmetric = npt.NDArray[np.float64]

_LEAF = 64
_GPU_LEAF = 1024


def diagonal_of(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A writable view of the diagonal of a C-contiguous square matrix."""
    assert matrix.flags.c_contiguous
    return matrix.reshape(-1)[:: len(matrix) + 1]


def damped(moments: Symmetric, damping: float) -> Symmetric:
    """A copy with `damping` times the mean diagonal added to the diagonal; a feature that is never excited gets a diagonal of 1 first."""
    result = module_of(moments).array(moments, np.float64, order="C")
    diagonal = diagonal_of(result)
    diagonal[diagonal == 0] = 1.0
    diagonal += damping * float(diagonal.mean())
    return result


def cholesky(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The lower Cholesky factor; LinAlgError if the matrix is not positive definite."""
    if module_of(matrix) is np:
        return np.linalg.cholesky(matrix)
    import cupy
    import cupyx

    with cupyx.errstate(linalg="raise"):
        return cupy.linalg.cholesky(matrix)


def inverse_factor(moments: Symmetric, damping: float = 0.01) -> Symmetric:
    """The upper Cholesky factor U of the inverse of the damped second moments H: H⁻¹ = UᵀU, f64 [k, k].

    Found without forming the inverse: H = F Fᵀ with F upper is the Cholesky factor of H with rows and columns reversed, reversed, and
    U = F⁻¹.
    """
    reversed_factor = cholesky(damped(moments, damping)[::-1, ::-1])
    return module_of(moments).ascontiguousarray(lower_inverse(reversed_factor)[::-1, ::-1])


def lower_inverse(lower: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The inverse of a lower triangular matrix, by halves: nearly all of the work is matrix products."""
    xp = module_of(lower)
    size = len(lower)
    if size <= (_LEAF if xp is np else _GPU_LEAF):
        return _small_lower_inverse(lower)
    half = size // 2
    result = xp.zeros_like(lower)
    result[:half, :half] = lower_inverse(lower[:half, :half])
    result[half:, half:] = lower_inverse(lower[half:, half:])
    result[half:, :half] = -result[half:, half:] @ (lower[half:, :half] @ result[:half, :half])
    return result


def _small_lower_inverse(lower: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if module_of(lower) is np:
        return np.tril(np.linalg.inv(lower))
    import cupy
    from cupyx.scipy.linalg import solve_triangular

    return solve_triangular(lower, cupy.eye(len(lower), dtype=lower.dtype), lower=True)


def lower_gram(lower: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """LᵀL of a lower triangular matrix L, by halves: a third of the work of the whole product."""
    xp = module_of(lower)
    size = len(lower)
    if size <= _GPU_LEAF:
        return lower.T @ lower
    half = size // 2
    side, below = lower[half:, :half], lower[half:, half:]
    result = xp.empty_like(lower)
    result[:half, :half] = lower_gram(lower[:half, :half]) + side.T @ side
    result[half:, half:] = lower_gram(below)
    result[half:, :half] = below.T @ side
    result[:half, half:] = result[half:, :half].T
    return result
