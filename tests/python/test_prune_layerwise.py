"""Pruning layer by layer with the real core on a tiny model: what comes out, propagation, resuming."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_model as tiny
from test_layer_stream import CALIBRATION, SEQUENCES, moments_of_layer

from gossamer import Runtime
from gossamer.checkpoint import ModelReader, ModelWriter
from gossamer.convert.values import quantize_model
from gossamer.prune import layer_store, pipeline, prune
from gossamer.prune.layerwise import prune_weight
from gossamer.quantize import VALUES, Quantizer

METHODS = ("wanda", "sparsegpt", "alps", "auto")
OPTIONS = {"num_threads": 2}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """The tiny Llama without zeros, some features of every norm loud: inputs of very different strength are what the methods are about."""
    rng = np.random.default_rng(5)
    tensors = tiny.weights()
    scale = np.where(np.arange(tiny.HIDDEN) % 6 == 0, 8.0, 0.5).astype(np.float32)
    for name, tensor in tensors.items():
        if "_proj" in name:
            tensors[name] = (rng.standard_normal(tensor.shape) * 0.2).astype(np.float16)
        elif name.endswith("layernorm.weight"):
            tensors[name] = tensor * scale
    path = tmp_path_factory.mktemp("dense") / "model"
    source = {"kind": "huggingface", "name": "tiny", "sha256": "0" * 64}
    with ModelWriter(path, side_files=tiny.side_files(), source=source, producer="test") as writer:
        for name, tensor in tensors.items():
            writer.add_dense(name, tensor)
        writer.finish()
    return path


def run(model, path, method, sparsity=0.6, **more):
    (report,) = prune(model, {sparsity: path}, method=method, calibration=CALIBRATION, runtime_options=OPTIONS, **more)
    return report


def contents(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


@pytest.mark.parametrize("method", METHODS)
def test_the_pruned_model_runs_and_says_how_sparse_it_is(dense, tmp_path, method):
    report = run(dense, tmp_path / "out", method)
    assert report.actual_sparsity == pytest.approx(0.6, abs=0.01)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".out.layers")] == []
    with Runtime(tmp_path / "out", num_threads=2) as runtime:
        assert runtime.info().sparsity == pytest.approx(report.actual_sparsity)
        assert runtime.info().pruning["method"] == method
        assert runtime.info().pruning["calibration_sha256"] == CALIBRATION.sha256
        assert len(runtime.generate([[1, 2, 3]], max_tokens=4, ignore_eos=True)[0].outputs[0].token_ids) == 4


@pytest.mark.parametrize("method", [m for m in METHODS if m != "auto"])
def test_later_layers_see_what_pruning_did(dense, tmp_path, method):
    """The last layer is pruned with the moments of its inputs in the model whose earlier layers are pruned, not in the dense one."""
    run(dense, tmp_path / "out", method)
    last = f"layers.{tiny.LAYERS - 1}."
    seen = {model: moments_of_layer(model, tiny.LAYERS - 1) for model in (dense, tmp_path / "out")}
    with ModelReader(dense) as before, ModelReader(tmp_path / "out") as after:
        for model, is_equal in ((tmp_path / "out", True), (dense, False)):
            name = f"model.{last}self_attn.q_proj.weight"
            expected = prune_weight(method, before.dense(name).astype(np.float32), seen[model][name].values, 0.6).astype(np.float16)
            assert np.array_equal(after.dense(name), expected) == is_equal


def test_better_methods_are_better_on_their_calibration_text(dense, tmp_path):
    for method in ("magnitude", *METHODS):
        run(dense, tmp_path / method, method, 0.4)

    def logprobs(model):
        with Runtime(model, num_threads=2) as runtime:
            return np.concatenate([scores[1:] for scores in runtime.score([list(s) for s in SEQUENCES])])

    reference = logprobs(dense)
    error = {method: np.abs(logprobs(tmp_path / method) - reference).mean() for method in ("magnitude", *METHODS)}
    assert error["wanda"] < 0.9 * error["magnitude"]
    assert error["sparsegpt"] < 0.95 * error["wanda"]
    assert error["alps"] < 0.95 * error["sparsegpt"]
    assert error["auto"] < 0.95 * error["alps"]


@pytest.mark.parametrize("method", ["sparsegpt", "auto"])
@pytest.mark.parametrize("interrupted_at", [0, 1, 2])
def test_an_interrupted_run_resumes_to_the_same_bytes(dense, tmp_path, monkeypatch, interrupted_at, method):
    run(dense, tmp_path / "whole", method)
    saved = []
    real = layer_store.LayerStore.save

    def stops(self, layer, weights):
        if layer == interrupted_at:
            raise KeyboardInterrupt
        saved.append(layer)
        real(self, layer, weights)

    with monkeypatch.context() as patch:
        patch.setattr(layer_store.LayerStore, "save", stops)
        with pytest.raises(KeyboardInterrupt):
            run(dense, tmp_path / "out", method)
    assert not (tmp_path / "out").exists()
    assert saved == list(range(interrupted_at))

    again = []
    monkeypatch.setattr(layer_store.LayerStore, "save", lambda self, layer, weights: (again.append(layer), real(self, layer, weights)))
    run(dense, tmp_path / "out", method)
    assert again == list(range(interrupted_at, tiny.LAYERS))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_another_runs_layers_are_not_taken(dense, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(dense, tmp_path / "out", "wanda")
    run(dense, tmp_path / "out", "sparsegpt")
    run(dense, tmp_path / "whole", "sparsegpt")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_pruning_what_is_pruned_keeps_its_zeros(dense, tmp_path):
    run(dense, tmp_path / "half", "wanda", 0.5)
    for method in METHODS:
        run(tmp_path / "half", tmp_path / method, method, 0.7)
        with ModelReader(tmp_path / "half") as before, ModelReader(tmp_path / method) as after:
            zeros = []
            for name in before.names():
                if "_proj" in name:
                    assert not np.any((before.dense(name) == 0) & (after.dense(name) != 0))
                    zeros.append(after.dense(name).ravel() == 0)
                    if method != "auto":  # which gives every part a sparsity of its own
                        assert np.mean(zeros[-1]) == pytest.approx(0.7, abs=0.02)
            assert np.mean(np.concatenate(zeros)) == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("method", ["magnitude", *METHODS])
def test_patterns(dense, tmp_path, method):
    (report,) = prune(dense, {0.5: tmp_path / "out"}, method=method, pattern=(2, 4), calibration=CALIBRATION, runtime_options=OPTIONS)
    assert report.actual_sparsity == 0.5
    with ModelReader(tmp_path / "out") as reader:
        assert reader.manifest.pruning["pattern"] == "2:4"
        for name in reader.names():
            if "_proj" in name:
                assert (np.count_nonzero(reader.dense(name).reshape(-1, 4), axis=1) == 2).all()
    with Runtime(tmp_path / "out", num_threads=2) as runtime:
        assert runtime.info().sparsity == 0.5


def test_a_pattern_has_its_own_sparsity(dense, tmp_path):
    for pattern, message in (((2, 4), "makes one output of sparsity 0.5"), ((4, 4), "0 < n < m"), ((1, 3), "m one of")):
        with pytest.raises(ValueError, match=message):
            prune(dense, {0.6: tmp_path / "out"}, method="magnitude", pattern=pattern)
    with pytest.raises(ValueError, match="allocation 'sensitivity' needs calibration text and no pattern"):
        prune(dense, {0.5: tmp_path / "out"}, method="magnitude", allocation="sensitivity")
    with pytest.raises(ValueError, match="allocation must be one of auto, uniform, sensitivity"):
        prune(dense, {0.5: tmp_path / "out"}, method="magnitude", allocation="owl")


def logprobs_of(model):
    with Runtime(model, num_threads=2) as runtime:
        return np.concatenate([scores[1:] for scores in runtime.score([list(s) for s in SEQUENCES])])


@pytest.mark.parametrize("values", ["int8", "int4", "fp8"])
def test_later_layers_undo_what_rounding_did(dense, tmp_path, values, monkeypatch):
    """Rounded while pruning, the model is nearer to the dense one than rounded afterwards; what layers saw is what is stored."""
    seen = {}
    real = layer_store.LayerStore.save
    with monkeypatch.context() as patch:
        patch.setattr(layer_store.LayerStore, "save", lambda self, layer, weights: (seen.update(weights), real(self, layer, weights)))
        run(dense, tmp_path / "during", "auto", 0.3, quantizer=Quantizer(values))
    with ModelReader(tmp_path / "during") as reader:
        for name, weight in seen.items():
            assert reader.record(name).dtype == VALUES[values]
            np.testing.assert_allclose(reader.dense(name), weight, rtol=1e-6)
    if values == "int4":  # what int8 and fp8 do is small beside pruning
        run(dense, tmp_path / "pruned", "auto", 0.3)
        quantize_model(tmp_path / "pruned", tmp_path / "after", Quantizer(values))
        reference = logprobs_of(dense)
        error = {name: np.abs(logprobs_of(tmp_path / name) - reference).mean() for name in ("during", "after")}
        assert error["during"] < 0.97 * error["after"]
