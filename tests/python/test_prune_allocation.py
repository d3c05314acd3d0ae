"""One budget of zeros: how it is spread, and the measurement that decides."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny_model as tiny
from test_layer_stream import CALIBRATION, hidden_after, stream_of
from test_prune_layerwise import OPTIONS, contents, dense  # noqa: F401

from gossamer.checkpoint import ModelReader
from gossamer.prune import keep_masks, pipeline, prune
from gossamer.prune.allocation import _SLOPE, _SPREAD, allocate, parts_of
from gossamer.prune.hidden import open_stream
from gossamer.prune.layer_store import LayerStore
from gossamer.prune.sensitivity import measure_sensitivity, probe_sequences

SIZES = {"a": 100, "b": 300, "c": 50, "d": 50}


def mean(shares):
    return sum(shares[name] * SIZES[name] for name in shares) / sum(SIZES[name] for name in shares)


@pytest.mark.parametrize("sparsity", [0.02, 0.3, 0.5, 0.7, 0.97])
def test_the_whole_has_the_sparsity_asked_for(sparsity):
    found = allocate({("a",): 0.3, ("b",): 0.01, ("c", "d"): 5.0}, SIZES, sparsity)
    assert mean(found) == pytest.approx(sparsity, abs=1e-5)
    assert all(0 <= share < 1 and abs(share - sparsity) <= _SPREAD + 1e-6 for share in found.values())
    assert found["c"] == found["d"]


def test_equal_cost_per_weight_means_equal_shares():
    found = allocate({(name,): 0.01 * size for name, size in SIZES.items()}, SIZES, 0.5)
    assert set(found.values()) == {0.5}


def test_it_is_the_least_total_cost_that_the_budget_allows():
    costs = {("a",): 0.02, ("b",): 0.04, ("c",): 0.015, ("d",): 0.009}
    found = allocate(costs, SIZES, 0.5)
    assert all(abs(share - 0.5) < _SPREAD for share in found.values())  # no bound is reached, so the optimum is inside

    def total(shares):
        return sum(cost * math.exp(_SLOPE * (shares[name] - 0.5)) for (name,), cost in costs.items())

    for giver in SIZES:
        for taker in SIZES:
            if giver != taker:
                moved = dict(found)
                moved[giver] -= 0.2 / SIZES[giver]
                moved[taker] += 0.2 / SIZES[taker]
                assert total(moved) > total(found)


def test_what_costs_nothing_gives_the_most():
    found = allocate({("a",): 0.0, ("b",): 1.0}, SIZES, 0.5)
    assert found["a"] == pytest.approx(0.5 + _SPREAD)
    assert mean(found) == pytest.approx(0.5, abs=1e-5)


def test_parts_are_attention_and_mlp():
    names = [f"model.layers.3.{part}.weight" for part in ("self_attn.q_proj", "mlp.up_proj", "self_attn.o_proj")]
    assert parts_of(names) == [[names[0], names[2]], [names[1]]]
    assert parts_of(names[1:2]) == [[names[1]]]


def log_probabilities(model, replacements):
    stream = stream_of(model)
    hidden = hidden_after(stream, SEQUENCES, replacements)
    stream.load_head()
    logits = stream.head(hidden).astype(np.float64)[::4]
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


SEQUENCES = probe_sequences(CALIBRATION)


def test_sensitivity_is_the_divergence_of_the_model_with_that_part_pruned(dense):  # noqa: F811
    with ModelReader(dense) as reader:
        parts = {i: parts_of([n for n in reader.names() if f"layers.{i}." in n and "_proj" in n]) for i in range(tiny.LAYERS)}
        found = measure_sensitivity(open_stream(dense, CALIBRATION, OPTIONS), reader, parts, SEQUENCES, 0.5, lambda: None)
        assert len(found) == 2 * tiny.LAYERS
        reference = log_probabilities(dense, {})
        captured = inputs_of(dense)
        for part, value in found.items():
            replacements = {}
            for name in part:
                weight = reader.dense(name)
                (keep,) = keep_masks(weight, [0.5], np.linalg.norm(captured[name], axis=0))
                replacements[name] = np.where(keep, weight, np.float16(0))
            other = log_probabilities(dense, replacements)
            expected = (np.exp(reference) * (reference - other)).sum(axis=1).mean()
            assert value == pytest.approx(expected, rel=1e-3)
            assert value > 1e-3


def inputs_of(model):
    stream, result = stream_of(model), {}
    stream.load_embedding()
    hidden = stream.embed([list(s) for s in SEQUENCES])
    for layer in range(stream.num_layers):
        stream.load_layer(layer, {})
        for names, values in stream.run_layer([len(s) for s in SEQUENCES], hidden, True):
            result |= dict.fromkeys(names, values)
    return result


def test_auto_spreads_and_says_so(dense, tmp_path):  # noqa: F811
    (report,) = prune(dense, {0.5: tmp_path / "out"}, calibration=CALIBRATION, runtime_options=OPTIONS)
    assert report.actual_sparsity == pytest.approx(0.5, abs=0.003)
    with ModelReader(tmp_path / "out") as reader:
        assert reader.manifest.pruning["allocation"] == "sensitivity"
        shares = {n: 1 - reader.record(n).nnz / reader.record(n).size for n in reader.names() if "_proj" in n}
    assert max(shares.values()) - min(shares.values()) > 0.05
    for layer in range(tiny.LAYERS):
        for part in parts_of([name for name in shares if f"layers.{layer}." in name]):
            assert np.ptp([shares[name] for name in part]) < 0.002


def test_a_resumed_run_keeps_what_was_decided(dense, tmp_path, monkeypatch):  # noqa: F811
    prune(dense, {0.5: tmp_path / "whole"}, calibration=CALIBRATION, runtime_options=OPTIONS)

    def stops(self, layer, weights):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LayerStore, "save", stops)
        with pytest.raises(KeyboardInterrupt):
            prune(dense, {0.5: tmp_path / "out"}, calibration=CALIBRATION, runtime_options=OPTIONS)
    monkeypatch.setattr(pipeline, "measure_sensitivity", lambda *_: pytest.fail("measured again"))
    prune(dense, {0.5: tmp_path / "out"}, calibration=CALIBRATION, runtime_options=OPTIONS)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_probes_are_short_and_from_every_group():
    groups = (tuple(tuple(range(i, i + 500)) for i in range(10)), ((1, 2, 3),))
    found = probe_sequences(type(CALIBRATION)(groups))
    assert [len(s) for s in found] == [256, 256, 3, 3]
    assert found[0][0] != found[1][0]
