"""Models side by side: against the definition, in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_model as tiny
from click.testing import CliRunner
from test_eval_runtime import text_file  # noqa: F401

from gossamer import _core
from gossamer.cli import cli
from gossamer.evaluate import EvaluationText, compare_layers, divergence
from gossamer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another model of the same shape."""
    return tiny.write_model(tmp_path_factory.mktemp("other") / "model", tensors=tiny.weights(seed=1))


@pytest.fixture(scope="module")
def text(text_file):  # noqa: F811
    return EvaluationText.from_file(text_file, Tokenizer(tiny.tokenizer_json()), window=32)


def states(model, sequence):
    """Hidden states after every layer and logits, of one sequence alone."""
    stream = _core.LayerStream(str(model), "cpu", "auto", "auto", 2, 64, 64)
    stream.load_embedding()
    hidden, after = stream.embed([list(sequence)]), []
    for layer in range(stream.num_layers):
        stream.load_layer(layer, {})
        stream.run_layer([len(sequence)], hidden, False)
        after.append(hidden.astype(np.float64))
    stream.load_head()
    return after, stream.head(hidden).astype(np.float64)


def test_it_is_the_definition(tiny_model, other, text, monkeypatch):
    monkeypatch.setattr(divergence, "_ROWS", 7)
    (found,) = compare_layers(tiny_model, [other], text, num_threads=2)
    expected, difference, size = [], np.zeros(tiny.LAYERS), np.zeros(tiny.LAYERS)
    for sequence in text.sequences:
        (ours, logits), (theirs, others) = states(tiny_model, sequence), states(other, sequence)
        p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (logits, others))
        expected.append((p * np.log(p / q)).sum(axis=1)[:-1].mean())
        difference += [np.sum((a - b) ** 2) for a, b in zip(theirs, ours, strict=True)]
        size += [np.sum(b**2) for b in ours]
    np.testing.assert_allclose(found.divergences, expected, rtol=1e-4)
    np.testing.assert_allclose(found.layer_errors, np.sqrt(difference / size), rtol=1e-4)
    assert found.divergence == pytest.approx(np.mean(expected), rel=1e-4)
    assert found.divergence_se == pytest.approx(np.std(expected, ddof=1) / np.sqrt(len(expected)), rel=1e-3)


def test_a_model_does_not_diverge_from_itself(tiny_model, other, text):
    steps = []
    same, different = compare_layers(tiny_model, [tiny_model, other], text, num_threads=2, progress=lambda *step: steps.append(step))
    assert not same.layer_errors.any()
    assert same.divergence == pytest.approx(0, abs=1e-6)
    assert different.divergence > 0.1
    assert steps == [(i, 3 * (tiny.LAYERS + 1)) for i in range(1, 3 * (tiny.LAYERS + 1) + 1)]


def test_other_shapes_are_refused(tiny_model, text, tmp_path):
    tensors = {name: tensor for name, tensor in tiny.weights().items() if ".layers.2." not in name}
    short = tiny.write_model(tmp_path / "short", tiny.side_files(num_hidden_layers=2), tensors)
    with pytest.raises(ValueError, match="same number of layers"):
        compare_layers(tiny_model, [short], text)


def test_the_command(tiny_model, other, text_file):  # noqa: F811
    options = ["--text", str(text_file), "--window", "32", "--kl"]
    result = CliRunner().invoke(cli, ["eval", str(tiny_model), str(other), *options, "--json"])
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.output)["models"]
    assert "kl" not in first["texts"][0]
    assert second["texts"][0]["kl"] > 10 * second["texts"][0]["kl_se"] > 0
    result = CliRunner().invoke(cli, ["eval", str(tiny_model), str(other), *options])
    assert "KL from model" in result.output
    result = CliRunner().invoke(cli, ["eval", str(tiny_model), *options])
    assert result.exit_code == 2
    assert "name at least two" in result.output
