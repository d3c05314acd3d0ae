"""What pruning shares between numpy and CuPy: conversions, selections, factors, and inputs that stay on the device."""

from __future__ import annotations

import logging
import sys

import ml_dtypes
import numpy as np
import pytest
from test_layer_stream import SEQUENCES, stream_of

from gossamer.checkpoint.dtypes import DTYPES
from gossamer.prune import arrays, masks
from gossamer.prune.arrays import array_module, as_stored, floats, module_of
from gossamer.prune.hidden import inputs_of_layer
from gossamer.prune.linear_algebra import diagonal_of, lower_gram
from gossamer.prune.masks import lowest

SPECIAL = np.array(
    [0.0, -0.0, 1e-45, -1e-41, 1e-38, 1.0, 1.00390625, 1.01171875, 65504.0, 65520.0, 3.4e38, np.inf, -np.inf, np.nan], np.float32
)


def test_values_of_every_dtype_become_floats():
    for dtype in DTYPES.values():
        with np.errstate(over="ignore"):
            stored = SPECIAL.astype(dtype)
        found = floats(np, stored)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, stored.astype(np.float32))
        assert not np.shares_memory(found, stored)


def test_bits_of_bf16_are_floats_too():
    stored = SPECIAL.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(floats(np, stored.view(np.uint16)), stored.astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_floats_are_stored_as_numpy_rounds_them(dtype):
    rng = np.random.default_rng(0)
    values = np.concatenate([SPECIAL, rng.integers(0, 2**32, 100_000, np.uint32).view(np.float32)])
    with np.errstate(over="ignore", invalid="ignore"):
        found, expected = as_stored(values, dtype), values.astype(dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))  # NaN is NaN
    assert not np.signbit(found[found == 0]).any()


def test_numpy_is_for_the_cpu_and_for_lack_of_cupy(monkeypatch, caplog):
    assert array_module("cpu") is np
    assert module_of(np.zeros(2)) is np
    monkeypatch.setitem(sys.modules, "cupy", None)
    arrays._cupy.cache_clear()
    with caplog.at_level(logging.WARNING, "gossamer"):
        assert array_module("cuda:0") is np
        assert array_module("cuda:0") is np
    arrays._cupy.cache_clear()
    (record,) = caplog.records
    assert "pip install 'gossamer[cuda]'" in record.getMessage()


@pytest.mark.parametrize("values", ["distinct", "few", "almost all equal"])
@pytest.mark.parametrize("sample", [16, 1 << 18], ids=["sampled", "whole"])
def test_the_lowest_are_those_of_the_sort(monkeypatch, values, sample):
    monkeypatch.setattr(masks, "_SAMPLE", sample)
    rng = np.random.default_rng(3)
    scores = {"distinct": rng.standard_normal(5000), "few": rng.integers(0, 4, 5000), "almost all equal": rng.random(5000) > 0.999}[values]
    scores = scores.astype(np.float32).reshape(50, 100)
    for count in (0, 1, 77, 2500, 4999, 5000):
        expected = np.zeros(5000, bool)
        expected[np.argsort(scores, axis=None, kind="stable")[:count]] = True
        np.testing.assert_array_equal(lowest(scores, count).ravel(), expected)


def test_a_sample_that_misleads_is_found_out(monkeypatch):
    """Every sampled score is high: the bracket that the sample gives does not hold the threshold."""
    monkeypatch.setattr(masks, "_SAMPLE", 100)
    scores = np.random.default_rng(0).random(100_000).astype(np.float32)
    scores[::1000] += 10
    found = lowest(scores, 50_000)
    assert found.sum() == 50_000
    assert scores[found].max() < scores[~found].min()


def test_bisection_is_the_partition():
    rng = np.random.default_rng(1)
    scores = np.abs(rng.standard_normal((40, 130)) * 10.0 ** rng.integers(-40, 38, (40, 130))).astype(np.float32)
    scores[3], scores[4, ::2], scores[5] = 0, 0, rng.integers(0, 3, 130)
    scores[6, 0] = np.inf
    for count in (1, 2, 65, 129, 130):
        expected = np.partition(scores, count - 1, axis=1)[:, count - 1 : count]
        np.testing.assert_array_equal(masks._bisected(scores, count), expected)


@pytest.mark.parametrize("size", [1, 33, 1024, 1025, 2100])
def test_gram_of_a_triangle(size):
    lower = np.tril(np.random.default_rng(size).standard_normal((size, size)))
    np.testing.assert_allclose(lower_gram(lower), lower.T @ lower, rtol=1e-9, atol=1e-9)


def test_the_diagonal_is_a_view():
    matrix = np.arange(9.0).reshape(3, 3)
    diagonal_of(matrix)[:] += 1
    np.testing.assert_array_equal(np.diag(matrix), [1, 5, 9])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_inputs_may_stay_on_the_device(tiny_model, dtype):
    """The same numbers as those brought to the host; only of the products asked for; alive when the stream is gone."""
    stream = stream_of(tiny_model, device="cpu", dtype=dtype)
    assert stream.device == "cpu"
    stream.load_embedding()
    hidden = stream.embed([list(SEQUENCES[0])])
    stream.load_layer(0, {})
    lengths = [len(SEQUENCES[0])]
    whole = inputs_of_layer(stream, lengths, hidden.copy())
    names = [whole[0][0][1], whole[-1][0][0]]  # k and down
    wanted = inputs_of_layer(stream, lengths, hidden.copy(), names)
    assert [own for own, _ in wanted] == [whole[0][0], whole[-1][0]]
    kept = stream.run_layer(lengths, hidden.copy(), True, names, True)
    del stream
    for (own, inputs), (kept_own, resident), expected in zip(wanted, kept, (whole[0], whole[-1]), strict=True):
        assert own == kept_own == expected[0]
        np.testing.assert_array_equal(inputs, expected[1])
        np.testing.assert_array_equal(floats(np, np.from_dlpack(resident)), expected[1])
