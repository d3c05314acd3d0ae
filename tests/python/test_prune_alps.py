"""ALPS against exact least squares and a plain version of the paper's algorithm."""

from __future__ import annotations

import numpy as np
import pytest
from test_prune_sparsegpt import layer, moments_of

from gossamer.prune.alps import alps
from gossamer.prune.sparsegpt import sparsegpt


def error(weight, pruned, inputs):
    return np.linalg.norm(inputs @ (pruned - weight).astype(np.float64).T)


def damp(moments, damping=0.01):
    return moments + damping * np.mean(np.diag(moments)) * np.eye(len(moments))


def reference_alps(weight, moments, sparsity, period=2):
    """The paper's updates with explicit inverses in float64, then exact least squares on the support of every row."""
    hessian = damp(moments)
    scale = np.sqrt(np.diag(hessian))
    hessian = hessian / np.outer(scale, scale)
    dense = weight.T.astype(np.float64) * scale[:, None]
    count = dense.size - round(dense.size * sparsity)

    def largest(matrix):
        mask = np.zeros(matrix.size, bool)
        mask[np.argsort(-np.abs(matrix), axis=None, kind="stable")[:count]] = True
        return mask.reshape(matrix.shape)

    penalty, dual, settled = 0.1, np.zeros_like(dense), largest(dense)
    sparse = dense * settled
    for step in range(1, 61):
        full = np.linalg.inv(hessian + penalty * np.eye(len(hessian))) @ (hessian @ dense + penalty * sparse - dual)
        keep = largest(full + dual / penalty)
        sparse = (full + dual / penalty) * keep
        dual = dual + penalty * (full - sparse)
        if step % period == 0:
            changed = np.count_nonzero(keep != settled) / count
            settled = keep
            if changed == 0:
                break
            penalty *= 1.3 if changed >= 0.1 else 1.2 if changed >= 0.005 else 1.1
    for column in range(sparse.shape[1]):
        rows = np.flatnonzero(keep[:, column])
        sparse[:, column] = 0
        sparse[rows, column] = np.linalg.solve(hessian[np.ix_(rows, rows)], hessian[rows] @ dense[:, column])
    return (sparse / scale[:, None]).T


@pytest.mark.parametrize(("rows", "cols", "sparsity"), [(12, 40, 0.5), (24, 96, 0.6), (7, 65, 0.3)])
def test_alps_is_the_reference(rows, cols, sparsity):
    weight, inputs = layer(rows, cols)
    found = alps(weight, moments_of(inputs), sparsity)
    expected = reference_alps(weight, moments_of(inputs), sparsity)
    assert np.count_nonzero(found == 0) == round(found.size * sparsity)
    assert np.mean((found == 0) != (expected == 0)) < 0.01  # float32 breaks near ties otherwise
    assert error(weight, found, inputs) == pytest.approx(error(weight, expected, inputs), rel=0.01)


def test_alps_changes_the_outputs_less_than_sparsegpt():
    weight, inputs = layer(64, 128)
    moments = moments_of(inputs)
    assert error(weight, alps(weight, moments, 0.6), inputs) < 0.9 * error(weight, sparsegpt(weight, moments, 0.6), inputs)


def test_a_correction_moves_the_outputs_where_they_should_be():
    """Inputs that pruning disturbed: with the correction the outputs are nearer to those of the clean inputs."""
    weight, clean = layer(48, 80)
    rng = np.random.default_rng(3)
    noisy = clean + 0.3 * clean @ (rng.standard_normal((80, 80)) / 9)
    correction = (noisy.T @ (clean - noisy) / len(noisy)).astype(np.float32) @ weight.T
    plain = alps(weight, moments_of(noisy), 0.5)
    corrected = alps(weight, moments_of(noisy), 0.5, correction=correction)
    wanted = clean @ weight.T
    assert np.linalg.norm(noisy @ corrected.T - wanted) < 0.8 * np.linalg.norm(noisy @ plain.T - wanted)


@pytest.mark.parametrize("pattern", [(2, 4), (4, 8)])
def test_patterns_hold_in_every_group(pattern):
    weight, inputs = layer(10, 160)
    found = alps(weight, moments_of(inputs), 0.0, pattern=pattern)
    groups = found.reshape(10, -1, pattern[1])
    assert (np.count_nonzero(groups == 0, axis=2) == pattern[0]).all()
    assert error(weight, found, inputs) < error(weight, sparsegpt(weight, moments_of(inputs), 0.0, pattern=pattern), inputs)


def test_zeros_stay():
    weight, inputs = layer(8, 40)
    weight[:, ::3] = 0
    found = alps(weight, moments_of(inputs), 0.5)
    assert not found[:, ::3].any()
    assert np.mean(found == 0) == pytest.approx(0.5)


def test_features_that_are_never_excited():
    weight, inputs = layer(8, 40)
    inputs[:, 5] = 0
    assert np.isfinite(alps(weight, moments_of(inputs), 0.5)).all()
