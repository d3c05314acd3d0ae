"""A model run layer by layer: the same numbers as the whole, moments of what it computes, replaced weights."""

from __future__ import annotations

import numpy as np
import pytest

from gossamer import Runtime, _core
from gossamer.checkpoint import ModelReader
from gossamer.prune import CalibrationSet
from gossamer.prune.hidden import chunks_of, embed, open_stream, run_layer

SEQUENCES = tuple(tuple(np.random.default_rng(i).integers(3, 250, 40 + i).tolist()) for i in range(4))
CALIBRATION = CalibrationSet((SEQUENCES[:1], SEQUENCES[1:]))
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def stream_of(model, **options):
    return open_stream(model, CALIBRATION, {"num_threads": 2} | options)


def hidden_after(stream, sequences, replacements=None):
    stream.load_embedding()
    hidden = stream.embed([list(s) for s in sequences])
    for layer in range(stream.num_layers):
        stream.load_layer(layer, {k: v for k, v in (replacements or {}).items() if f"layers.{layer}." in k})
        stream.run_layer([len(s) for s in sequences], hidden, False)
    return hidden


def logprobs(logits, sequence):
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return table[np.arange(len(sequence) - 1), sequence[1:]]


def test_layer_by_layer_is_the_whole_model(tiny_model):
    stream = stream_of(tiny_model)
    hidden = hidden_after(stream, SEQUENCES)
    stream.load_head()
    logits = stream.head(hidden)
    with Runtime(tiny_model, num_threads=2) as runtime:
        expected = runtime.score([list(s) for s in SEQUENCES])
    begin = 0
    for sequence, scores in zip(SEQUENCES, expected, strict=True):
        np.testing.assert_allclose(logprobs(logits[begin:], sequence), scores[1:], rtol=1e-5, atol=1e-5)
        begin += len(sequence)


def test_a_sequence_does_not_see_its_neighbours(tiny_model):
    stream = stream_of(tiny_model)
    together = hidden_after(stream, SEQUENCES)
    alone = np.concatenate([hidden_after(stream, [s]) for s in SEQUENCES])
    np.testing.assert_array_equal(together, alone)


def test_half_by_half_is_the_whole_layer(tiny_model):
    stream = stream_of(tiny_model)
    lengths = [len(s) for s in SEQUENCES]
    whole = hidden_after(stream, SEQUENCES)
    stream.load_embedding()
    hidden = stream.embed([list(s) for s in SEQUENCES])
    seen = []
    for layer in range(stream.num_layers):
        stream.load_layer(layer, {})
        for part in ("attention", "mlp"):
            seen += [names[0].rsplit(".", 2)[1] for names, _ in stream.run_layer(lengths, hidden, True, part=part)]
    np.testing.assert_array_equal(hidden, whole)
    assert seen == ["q_proj", "o_proj", "gate_proj", "down_proj"] * stream.num_layers
    with pytest.raises(ValueError, match="part must be whole, attention or mlp, not 'head'"):
        stream.run_layer(lengths, hidden, False, part="head")


def test_replaced_weights_are_used(tiny_model):
    stream = stream_of(tiny_model)
    with ModelReader(tiny_model) as reader:
        weight = reader.dense(Q_PROJ)
    stored = hidden_after(stream, SEQUENCES)
    np.testing.assert_array_equal(stored, hidden_after(stream, SEQUENCES, {Q_PROJ: np.ascontiguousarray(weight)}))
    assert not np.allclose(stored, hidden_after(stream, SEQUENCES, {Q_PROJ: np.zeros_like(weight)}))


def rms_normed_embeddings(model, tokens):
    """What the first layer's q, k and v projections see, from the stored weights in float64."""
    with ModelReader(model) as reader:
        hidden = reader.dense("model.embed_tokens.weight").astype(np.float64)[tokens]
        weight = reader.dense("model.layers.0.input_layernorm.weight").astype(np.float64)
        eps = reader.config["rms_norm_eps"]
    return hidden / np.sqrt((hidden**2).mean(axis=1, keepdims=True) + eps) * weight


def moments_of_layer(model, layer, **options):
    stream = stream_of(model, **options)
    chunks = chunks_of(CALIBRATION)
    embed(stream, chunks)
    for i in range(layer):
        stream.load_layer(i, {})
        run_layer(stream, chunks, keep=True, moments=False)
    stream.load_layer(layer, {})
    return run_layer(stream, chunks, keep=False)


def test_moments_are_those_of_the_inputs_and_every_group_counts_the_same(tiny_model):
    found = moments_of_layer(tiny_model, 0)
    assert found[Q_PROJ].weight_names == tuple(Q_PROJ.replace("q_proj", f"{p}_proj") for p in "qkv")
    expected = 0
    for group in CALIBRATION.groups:
        inputs = np.concatenate([rms_normed_embeddings(tiny_model, list(s)) for s in group])
        expected = expected + inputs.T @ inputs / len(inputs) / len(CALIBRATION.groups)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(found[Q_PROJ].values / scale, expected / scale, atol=1e-5)


def test_every_projection_is_seen(tiny_model):
    names = [name for found in moments_of_layer(tiny_model, 1).values() for name in found.weight_names]
    with ModelReader(tiny_model) as reader:
        assert sorted(names) == sorted(n for n in reader.names() if "layers.1." in n and "_proj" in n)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda s: s.embed([[1, 2]]), "load the embedding"),
        (lambda s: s.load_layer(3, {}), "layer must be between 0 and 2, not 3"),
        (lambda s: s.load_layer(1, {Q_PROJ: np.zeros((48, 48), np.float32)}), "must be a weight of layer 1"),
        (lambda s: s.load_layer(0, {Q_PROJ: np.zeros((4, 48), np.float32)}), "must have its shape"),
        (lambda s: (s.load_embedding(), s.embed([[]])), "at least one token"),
        (lambda s: (s.load_embedding(), s.embed([[1] * 99])), "max_length is 43"),
        (lambda s: (s.load_embedding(), s.embed([[1]] * 300)), "at most 256 sequences"),
        (lambda s: (s.load_embedding(), s.embed([[10**6]])), "not in the vocabulary"),
        (lambda s: (s.load_layer(0, {}), s.run_layer([4], np.zeros((3, 48), np.float32), False)), r"hidden must be \[4, 48\]"),
    ],
)
def test_wrong_use(tiny_model, use, message):
    with pytest.raises(ValueError, match=message):
        use(stream_of(tiny_model))


def test_there_is_no_shorter_context_than_the_sequences(tiny_model):
    with pytest.raises(ValueError, match="max_length must be between 1 and the model's context"):
        _core.LayerStream(str(tiny_model), "cpu", "auto", "auto", 1, 16, 10**7)
