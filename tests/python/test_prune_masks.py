"""Which weights are kept: against a plain sort, with ties, blocks, dtypes."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gossamer.prune import masks
from gossamer.prune.masks import keep_masks, num_dropped, pattern_mask
from gossamer.prune.select import is_prunable


def by_sorting(weight, sparsity, norms=None):
    """The definition, a row at a time: sort by (score, leftmost last), drop the first."""
    keep = np.ones(weight.shape, bool)
    scale = np.ones(weight.shape[1], np.float32) if norms is None else norms.astype(np.float32)
    for row, values in enumerate(weight.astype(np.float32)):
        scores = np.abs(values) * scale
        order = sorted(range(len(scores)), key=lambda c: (scores[c], -c))
        keep[row, order[: num_dropped(len(scores), sparsity)]] = False
    return keep & (weight.astype(np.float32) != 0)


@settings(max_examples=100, deadline=None)
@given(
    weight=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=17), elements=st.integers(-3, 3).map(float)),
    sparsity=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.75, 0.99]),
    seed=st.none() | st.integers(0, 9),
)
def test_equals_the_sort_with_many_ties(weight, sparsity, seed):
    norms = None if seed is None else np.random.default_rng(seed).integers(0, 3, weight.shape[1]).astype(np.float64)
    np.testing.assert_array_equal(keep_masks(weight, [sparsity], norms)[0], by_sorting(weight, sparsity, norms))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_random_weights(dtype, method):
    rng = np.random.default_rng(7)
    weight = rng.standard_normal((33, 129)).astype(dtype)
    norms = np.exp(rng.standard_normal(129)) if method == "wanda" else None
    for mask, sparsity in zip(keep_masks(weight, [0.3, 0.5], norms), [0.3, 0.5], strict=True):
        np.testing.assert_array_equal(mask, by_sorting(weight, sparsity, norms))
        assert (mask.sum(axis=1) == 129 - num_dropped(129, sparsity)).all()


@pytest.mark.parametrize("pattern", [(2, 4), (1, 2), (3, 8)])
@pytest.mark.parametrize("with_norms", [False, True])
def test_patterns_are_the_sort_within_every_group(pattern, with_norms):
    rng = np.random.default_rng(2)
    weight = rng.integers(-3, 4, (9, 26)).astype(np.float16)
    norms = rng.integers(1, 4, 26).astype(np.float64) if with_norms else None
    found = pattern_mask(weight, pattern, norms)
    drop, group = pattern
    whole = 26 // group * group
    for begin in range(0, whole, group):
        part = weight[:, begin : begin + group]
        expected = by_sorting(part, drop / group, None if norms is None else norms[begin : begin + group])
        np.testing.assert_array_equal(found[:, begin : begin + group], expected)
    np.testing.assert_array_equal(found[:, whole:], weight[:, whole:] != 0)


def test_blocks_do_not_show(monkeypatch):
    weight = np.random.default_rng(3).standard_normal((50, 40)).astype(np.float32)
    whole = keep_masks(weight, [0.5])[0]
    monkeypatch.setattr(masks, "_BLOCK_ELEMENTS", 7 * 40)
    np.testing.assert_array_equal(keep_masks(weight, [0.5])[0], whole)


def test_wanda_weighs_by_the_inputs():
    weight = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    np.testing.assert_array_equal(keep_masks(weight, [0.5])[0], [[False, False, True, True]])
    np.testing.assert_array_equal(keep_masks(weight, [0.5], np.array([10.0, 10.0, 1.0, 1.0]))[0], [[True, True, False, False]])


def test_sparser_masks_are_nested():
    rng = np.random.default_rng(5)
    weight, norms = rng.standard_normal((20, 64)).astype(np.float32), rng.random(64)
    low, high = keep_masks(weight, [0.3, 0.6], norms)
    assert not (high & ~low).any()


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 2.0, float("nan")])
def test_bad_sparsity(sparsity):
    with pytest.raises(ValueError, match="sparsity must be"):
        keep_masks(np.ones((2, 2), np.float32), [sparsity])


def test_bad_norms():
    with pytest.raises(ValueError, match="one entry per input feature, 3"):
        keep_masks(np.ones((2, 3), np.float32), [0.5], np.ones(2))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.layers.0.self_attn.q_proj.weight", (8, 8), True),
        ("model.layers.11.mlp.down_proj.weight", (8, 16), True),
        ("model.decoder.layers.3.fc1.weight", (16, 8), True),
        ("model.decoder.layers.3.self_attn.out_proj.weight", (8, 8), True),
        ("model.layers.0.self_attn.q_proj.bias", (8,), False),
        ("model.layers.0.self_attn.q_norm.weight", (8,), False),
        ("model.layers.0.input_layernorm.weight", (8,), False),
        ("model.embed_tokens.weight", (100, 8), False),
        ("model.decoder.embed_positions.weight", (100, 8), False),
        ("model.decoder.project_in.weight", (8, 8), False),
        ("lm_head.weight", (100, 8), False),
    ],
)
def test_what_is_pruned(name, shape, expected):
    assert is_prunable(name, shape) is expected
