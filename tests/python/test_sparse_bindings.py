"""The canonical sparse weight against numpy: every value, the mask's layout, slices that need not fall on byte boundaries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer import CheckpointError, _core

testing = _core.testing
DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}


@st.composite
def matrices(draw, dtype):
    rows, cols = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = random.standard_normal((rows, cols)).astype(np.float32) * (random.random((rows, cols)) < density)
    return (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bf16" else values.astype(DTYPES[dtype])


def is_zero(matrix, dtype):
    return (matrix & 0x7FFF) == 0 if dtype == "bf16" else matrix == 0


@settings(deadline=None)
@given(data=st.data(), dtype=st.sampled_from(list(DTYPES)))
def test_round_trip_and_layout(data, dtype):
    dense = data.draw(matrices(dtype))
    mask, values, offsets = testing.sparse_from_dense(dense, dtype)
    kept = ~is_zero(dense, dtype)
    np.testing.assert_array_equal(mask, np.packbits(kept, axis=1, bitorder="little"))
    np.testing.assert_array_equal(values, dense[kept])
    np.testing.assert_array_equal(offsets, np.concatenate([[0], np.cumsum(kept.sum(axis=1))]))
    assert values.dtype == DTYPES[dtype]
    back = testing.sparse_to_dense(dense.shape[1], mask, values, offsets, dtype)
    np.testing.assert_array_equal(back, np.where(kept, dense, 0))


@settings(deadline=None)
@given(data=st.data(), dtype=st.sampled_from(list(DTYPES)), axis=st.integers(0, 1))
def test_slices(data, dtype, axis):
    dense = data.draw(matrices(dtype))
    begin = data.draw(st.integers(0, dense.shape[axis] - 1))
    end = data.draw(st.integers(begin + 1, dense.shape[axis]))
    part = testing.sparse_slice(dense.shape[1], *testing.sparse_from_dense(dense, dtype), dtype, axis, begin, end)
    expected = dense[begin:end] if axis == 0 else dense[:, begin:end]
    for found, wanted in zip(part, testing.sparse_from_dense(np.ascontiguousarray(expected), dtype), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_results_own_their_memory():
    dense = np.eye(5, dtype=np.float32)
    mask, values, offsets = testing.sparse_from_dense(dense)
    del dense
    values[:] = 7
    np.testing.assert_array_equal(testing.sparse_to_dense(5, mask, values, offsets), 7 * np.eye(5))


def valid():
    return [3, *testing.sparse_from_dense(np.array([[1, 0, 2], [0, 3, 0]], np.float32))]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda p: p[1].__setitem__((0, 0), 0b111),
        lambda p: p[1].__setitem__((0, 0), 0b001),
        lambda p: p[1].__setitem__((1, 0), 0b1010),  # a pad bit
        lambda p: p[3].__setitem__(0, 1),
        lambda p: p[3].__setitem__(1, 1),
        lambda p: p[3].__setitem__(1, -5),
        lambda p: p[3].__setitem__(2, 2**62),
        lambda p: p.__setitem__(2, p[2][:-1].copy()),
        lambda p: p.__setitem__(3, p[3][:-1].copy()),
        lambda p: p.__setitem__(0, 9),
        lambda p: p.__setitem__(0, -1),
    ],
)
def test_broken_structures_are_refused(break_it):
    parts = valid()
    testing.sparse_validate(*parts)
    break_it(parts)
    with pytest.raises((CheckpointError, ValueError, TypeError)):
        testing.sparse_validate(*parts)
    with pytest.raises((CheckpointError, ValueError, TypeError)):
        testing.sparse_to_dense(*parts)


@pytest.mark.parametrize(
    "dense",
    [
        np.eye(3),
        np.eye(3, dtype=np.float32)[:, ::2],
        np.eye(4, dtype=np.float32).T[::2],
        np.eye(3, dtype=np.float32).astype(">f4"),
        np.zeros(3, np.float32),
        np.zeros((), np.float32),
        np.zeros((2, 2, 2), np.float32),
        [[1.0, 2.0]],
        None,
        "x",
    ],
    ids=["float64", "strided", "transposed", "big-endian", "1-d", "0-d", "3-d", "list", "none", "text"],
)
def test_wrong_arrays_are_refused(dense):
    with pytest.raises((TypeError, ValueError)):
        testing.sparse_from_dense(dense)


def test_read_only_arrays_are_read():
    dense = np.eye(3, dtype=np.float32)
    dense.flags.writeable = False
    assert testing.sparse_from_dense(dense)[1].tolist() == [1, 1, 1]


def test_checkpoint_reader_gives_the_stored_tensors(tiny_model):
    import tiny_model as tiny

    checkpoint = _core.Checkpoint.open(str(tiny_model))
    tensors = tiny.weights()
    assert set(checkpoint.tensors()) == set(tensors)
    for name, expected in tensors.items():
        if checkpoint.tensors()[name]["encoding"] == "bitmap":
            found = testing.sparse_to_dense(expected.shape[1], *checkpoint.read_sparse(name))
        else:
            found = checkpoint.read_dense(name)
        np.testing.assert_array_equal(found, expected)
    assert checkpoint.side_file("absent.json") == b""
    assert checkpoint.side_file("tokenizer.json") == tiny.tokenizer_json()
    with pytest.raises((ValueError, KeyError)):
        checkpoint.read_dense("no.such.weight")
