"""Dense linear algebra for pruning, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["damped", "inverse_factor", "lower_inverse"]

Symmetric = npt.NDArray[np.float64]

_LEAF = 64


def damped(moments: Symmetric, damping: float) -> Symmetric:
    """A copy with `damping` times the mean diagonal added to the diagonal; a feature that is never excited gets a diagonal of 1 first."""
    result = np.array(moments, np.float64)
    diagonal = np.einsum("ii->i", result)
    diagonal[diagonal == 0] = 1.0
    diagonal += damping * float(np.mean(diagonal))
    return result


def inverse_factor(moments: Symmetric, damping: float = 0.01) -> Symmetric:
    """The upper Cholesky factor U of the inverse of the damped second moments H: H⁻¹ = UᵀU, f64 [k, k].

    Found without forming the inverse: H = F Fᵀ with F upper is the Cholesky factor of H with rows and columns reversed, reversed, and
    U = F⁻¹.
    """
    reversed_factor = np.linalg.cholesky(damped(moments, damping)[::-1, ::-1])
    return np.ascontiguousarray(lower_inverse(reversed_factor)[::-1, ::-1])


def lower_inverse(lower: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The inverse of a lower triangular matrix, by halves: nearly all of the work is matrix products."""
    size = len(lower)
    if size <= _LEAF:
        return np.tril(np.linalg.inv(lower))
    half = size // 2
    result = np.zeros_like(lower)
    result[:half, :half] = lower_inverse(lower[:half, :half])
    result[half:, half:] = lower_inverse(lower[half:, half:])
    result[half:, :half] = -result[half:, half:] @ (lower[half:, :half] @ result[:half, :half])
    return result
