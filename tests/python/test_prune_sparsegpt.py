"""SparseGPT and Wanda against plain references written from the papers."""

from __future__ import annotations

import numpy as np
import pytest

from gossamer.prune.layerwise import prune_weight
from gossamer.prune.linear_algebra import inverse_factor, lower_inverse
from gossamer.prune.sparsegpt import sparsegpt


def layer(rows, cols, seed=0, samples=None):
    """A weight and inputs whose features differ in strength and are correlated."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(cols) + 0.4 * rng.standard_normal((cols, cols)) / np.sqrt(cols)
    inputs = (rng.standard_normal((samples or 4 * cols, cols)) * np.exp(rng.standard_normal(cols))) @ mixing
    return rng.standard_normal((rows, cols)).astype(np.float32), inputs


def moments_of(inputs):
    return inputs.T @ inputs / len(inputs)


def reference_sparsegpt(weight, moments, sparsity, block=128, damping=0.01):
    """Optimal brain surgeon with explicit inverses: when column c is decided, the inverse is that of the columns from c on."""
    weight = weight.astype(np.float64)
    cols = weight.shape[1]
    damped = moments + damping * np.mean(np.diag(moments)) * np.eye(cols)
    inverses = [np.linalg.inv(damped[c:, c:]) for c in range(cols)]
    for begin in range(0, cols, block):
        end = min(begin + block, cols)
        scores = np.stack([weight[:, c] ** 2 / inverses[c][0, 0] for c in range(begin, end)], axis=1)
        order = np.argsort(scores, axis=None, kind="stable")[: round(scores.size * sparsity)]
        dropped = np.zeros(scores.size, bool)
        dropped[order] = True
        dropped = dropped.reshape(scores.shape)
        for c in range(begin, end):
            for r in np.flatnonzero(dropped[:, c - begin]):
                weight[r, c:] -= weight[r, c] / inverses[c][0, 0] * inverses[c][0]
                weight[r, c] = 0
    return weight


@pytest.mark.parametrize(("rows", "cols", "sparsity"), [(12, 40, 0.5), (9, 150, 0.5), (5, 300, 0.7), (16, 128, 0.3)])
def test_sparsegpt_is_the_reference(rows, cols, sparsity):
    weight, inputs = layer(rows, cols)
    moments = moments_of(inputs)
    found = sparsegpt(weight, moments, sparsity)
    expected = reference_sparsegpt(weight, moments, sparsity)
    assert np.array_equal(found == 0, expected == 0)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
    assert np.mean(found == 0) == pytest.approx(sparsity, abs=0.01)


def test_sparsegpt_changes_the_outputs_less_than_wanda():
    weight, inputs = layer(32, 96)
    moments = moments_of(inputs)

    def error(pruned):
        return np.linalg.norm(inputs @ (pruned - weight).T)

    assert error(sparsegpt(weight, moments, 0.5)) < 0.8 * error(prune_weight("wanda", weight, moments, 0.5))


def test_wanda_is_the_reference():
    weight, inputs = layer(20, 64)
    found = prune_weight("wanda", weight, moments_of(inputs), 0.5)
    for row, pruned in zip(weight, found, strict=True):
        scores = np.abs(row.astype(np.float64)) * np.linalg.norm(inputs, axis=0)
        kept = np.sort(np.argsort(scores)[32:])
        np.testing.assert_array_equal(np.flatnonzero(pruned), kept)
        np.testing.assert_array_equal(pruned[kept], row[kept])


@pytest.mark.parametrize("pattern", [(2, 4), (4, 8), (1, 2)])
def test_patterns_hold_in_every_group(pattern):
    weight, inputs = layer(10, 150)
    found = sparsegpt(weight, moments_of(inputs), 0.0, pattern=pattern)
    for begin in range(0, 150 - pattern[1] + 1, pattern[1]):
        assert (np.count_nonzero(found[:, begin : begin + pattern[1]] == 0, axis=1) == pattern[0]).all()


def test_patterns_are_checked():
    weight, inputs = layer(4, 24)
    for pattern in [(1, 3), (4, 4), (0, 4), (2, 32)]:
        with pytest.raises(ValueError, match="pattern"):
            sparsegpt(weight, moments_of(inputs), 0.0, pattern=pattern)


def test_zeros_stay_and_dead_features_go():
    weight, inputs = layer(8, 40)
    weight[:, ::3] = 0
    inputs[:, 5] = 0
    found = sparsegpt(weight, moments_of(inputs), 0.5)
    assert not found[:, ::3].any()
    assert not found[:, 5].any()
    assert np.isfinite(found).all()
    assert np.mean(found == 0) == pytest.approx(0.5)


@pytest.mark.parametrize("size", [1, 7, 64, 65, 200])
def test_factors(size):
    _, inputs = layer(1, size, samples=3 * size)
    moments = moments_of(inputs)
    lower = np.linalg.cholesky(moments)
    np.testing.assert_allclose(lower_inverse(lower) @ lower, np.eye(size), atol=1e-8)
    upper = inverse_factor(moments, 0.01)
    np.testing.assert_array_equal(upper, np.triu(upper))
    damped = moments + 0.01 * np.mean(np.diag(moments)) * np.eye(size)
    np.testing.assert_allclose(upper.T @ upper @ damped, np.eye(size), atol=1e-7)
