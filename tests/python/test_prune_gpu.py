"""Pruning's linear algebra by CuPy on a GPU: what numpy finds, for every method, and for a whole model."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from test_layer_stream import CALIBRATION, SEQUENCES, stream_of
from test_prune_layerwise import dense  # noqa: F401
from test_prune_sparsegpt import layer, moments_of

from gossamer import Runtime
from gossamer.checkpoint import ModelReader
from gossamer.checkpoint.dtypes import DTYPES
from gossamer.prune import layerwise, prune, sensitivity
from gossamer.prune.arrays import array_module, as_stored, floats, on_tensor_cores, to_host
from gossamer.prune.hidden import inputs_of_layer
from gossamer.prune.layerwise import prune_weight
from gossamer.prune.linear_algebra import cholesky, damped, inverse_factor, lower_gram, lower_inverse
from gossamer.prune.masks import keep_masks, lowest, pattern_mask

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cupy(gpu):
    found = array_module(gpu)
    if found is np:
        pytest.skip("CuPy is missing or does not work here: pip install 'gossamer[cuda]'")
    return found


def error(weight, pruned, inputs):
    return np.linalg.norm(inputs @ (pruned - weight).astype(np.float64).T)


def test_conversions(cupy):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**32, 100_000, np.uint32).view(np.float32)
    values = np.where(np.abs(values) < np.finfo(np.float32).tiny, np.float32(0), values)  # CuPy's kernels flush subnormals
    for dtype in DTYPES.values():
        stored = as_stored(values, dtype)
        np.testing.assert_array_equal(as_stored(cupy.asarray(values), dtype).astype(np.float32), stored.astype(np.float32))
        np.testing.assert_array_equal(to_host(floats(cupy, stored)), floats(np, stored))


@pytest.mark.parametrize("size", [7, 700, 2500])
def test_factors(cupy, size):
    _, inputs = layer(1, size, samples=2 * size)
    moments = moments_of(inputs)
    on_gpu = cupy.asarray(moments)
    lower = cholesky(damped(on_gpu, 0.01))
    np.testing.assert_allclose(to_host(lower @ lower.T), damped(moments, 0.01), rtol=1e-9, atol=1e-9 * moments.max())
    inverse = lower_inverse(lower)
    np.testing.assert_allclose(to_host(inverse @ lower), np.eye(size), atol=1e-8)
    np.testing.assert_allclose(to_host(lower_gram(inverse) @ (lower @ lower.T)), np.eye(size), atol=1e-6)
    np.testing.assert_allclose(to_host(inverse_factor(on_gpu)), inverse_factor(moments), rtol=1e-6, atol=1e-9)


def test_what_is_not_positive_definite_is_an_error(cupy):
    with pytest.raises(np.linalg.LinAlgError):
        cholesky(cupy.asarray(np.diag([1.0, -1.0])))


def test_products_on_tensor_cores_are_as_exact_as_they_say(cupy):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((512, 1024)), rng.standard_normal((1024, 256))
    a, b = a.astype(np.float32), b.astype(np.float32)
    exact = a.astype(np.float64) @ b
    limit = np.abs(a).astype(np.float64) @ np.abs(b)
    ours = [cupy.asarray(a), cupy.asarray(b)]
    with on_tensor_cores(cupy):
        rounded = to_host(ours[0] @ ours[1])
    assert np.max(np.abs(rounded - exact) / limit) < 2.0**-10
    assert np.max(np.abs(to_host(ours[0] @ ours[1]) - exact) / limit) < 2.0**-18


@pytest.mark.parametrize("kind", ["normal", "ties", "zeros"])
def test_masks_are_the_same(cupy, kind):
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((70, 1030)).astype(np.float32)
    if kind == "ties":
        weight = weight.astype(ml_dtypes.bfloat16).astype(np.float32).round(1)
    if kind == "zeros":
        weight[rng.random(weight.shape) < 0.6] = 0
    norms = np.exp(rng.standard_normal(1030))
    for own in (None, norms):
        theirs = None if own is None else cupy.asarray(own)
        on_gpu, on_cpu = keep_masks(cupy.asarray(weight), [0.0, 0.3, 0.9], theirs), keep_masks(weight, [0.0, 0.3, 0.9], own)
        for mask, expected in zip(on_gpu, on_cpu, strict=True):
            np.testing.assert_array_equal(to_host(mask), expected)
        np.testing.assert_array_equal(to_host(pattern_mask(cupy.asarray(weight), (2, 4), theirs)), pattern_mask(weight, (2, 4), own))
    for count in (0, 1, 30_000, weight.size):
        np.testing.assert_array_equal(to_host(lowest(cupy.asarray(weight), count)), lowest(weight, count))


def test_the_lowest_of_many(cupy):
    scores = np.abs(np.random.default_rng(4).standard_normal((1500, 2000))).astype(np.float32)
    np.testing.assert_array_equal(to_host(lowest(cupy.asarray(scores), 1_700_000)), lowest(scores, 1_700_000))


@pytest.mark.parametrize("pattern", [None, (2, 4)])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "alps"])
@pytest.mark.parametrize(("rows", "cols"), [(96, 200), (150, 1100)])
def test_methods_find_what_they_find_on_the_cpu(cupy, method, rows, cols, pattern):
    weight, inputs = layer(rows, cols)
    moments = moments_of(inputs)
    more, ours = {"pattern": pattern}, {"pattern": pattern}
    if method == "alps":
        correction = (moments @ (0.05 * weight.T)).astype(np.float32)
        more, ours = more | {"correction": correction}, ours | {"correction": cupy.asarray(correction)}
    expected = prune_weight(method, weight, moments, 0.5, **more)
    found = prune_weight(method, cupy.asarray(weight), cupy.asarray(moments), 0.5, **ours)
    assert isinstance(found, cupy.ndarray)
    found = to_host(found)
    assert np.count_nonzero(found == 0) == np.count_nonzero(expected == 0)
    differing = np.mean((found == 0) != (expected == 0))
    if method == "wanda":
        np.testing.assert_array_equal(found, expected)
    elif method == "sparsegpt":
        assert differing < 1e-3
        assert error(weight, found, inputs) == pytest.approx(error(weight, expected, inputs), rel=1e-3)
    else:  # ADMM's support is found with products on tensor cores: other weights, as good ones
        assert differing < 0.05
        assert error(weight, found, inputs) == pytest.approx(error(weight, expected, inputs), rel=0.01)


def test_inputs_that_stay_on_the_gpu_are_those_on_the_host(cupy, gpu, tiny_model):
    stream = stream_of(tiny_model, device=gpu)
    assert stream.device == gpu
    stream.load_embedding()
    hidden = stream.embed([list(SEQUENCES[0])])
    stream.load_layer(0, {})
    lengths = [len(SEQUENCES[0])]
    on_host, on_gpu = inputs_of_layer(stream, lengths, hidden.copy()), inputs_of_layer(stream, lengths, hidden.copy(), xp=cupy)
    assert len(on_host) == len(on_gpu) == 4
    for (own, expected), (names, inputs) in zip(on_host, on_gpu, strict=True):
        assert own == names
        np.testing.assert_array_equal(to_host(inputs), expected)


def logprobs(model, device):
    with Runtime(model, device=device) as runtime:
        return np.concatenate([scores[1:] for scores in runtime.score([list(s) for s in SEQUENCES])])


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "auto"])
def test_a_model_is_pruned_as_well_as_on_the_cpu(cupy, gpu, dense, tmp_path, monkeypatch, method):  # noqa: F811
    def run(name, device):
        (report,) = prune(dense, {0.5: tmp_path / name}, method=method, calibration=CALIBRATION, runtime_options={"device": device})
        assert report.actual_sparsity == pytest.approx(0.5, abs=0.01)

    run("gpu", gpu)
    run("cpu", "cpu")
    with monkeypatch.context() as patch:  # the layers run on the GPU, the linear algebra in numpy
        for module in (layerwise, sensitivity):
            patch.setattr(module, "array_module", lambda device: np)
        run("mixed", gpu)
    with ModelReader(tmp_path / "gpu") as found, ModelReader(tmp_path / "mixed") as expected:
        for name in found.names():
            if "_proj" in name and ".layers.0." in name:  # later layers see what the differences of the first ones did
                ours, theirs = found.dense(name).astype(np.float32), expected.dense(name).astype(np.float32)
                assert np.mean((ours == 0) != (theirs == 0)) < 0.03
    reference = logprobs(dense, "cpu")
    errors = {name: np.abs(logprobs(tmp_path / name, "cpu") - reference).mean() for name in ("gpu", "cpu", "mixed")}
    assert errors["gpu"] == pytest.approx(errors["mixed"], rel=0.1)
    assert errors["gpu"] == pytest.approx(errors["cpu"], rel=0.2)
