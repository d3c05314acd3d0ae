"""Prune, eval and bench with the real runtime on a tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from gossamer import Runtime
from gossamer.bench.fresh import measure_fresh
from gossamer.bench.measure import Shape, measure, measure_model
from gossamer.checkpoint import ModelReader
from gossamer.cli import cli
from gossamer.evaluate import EvaluationText, score_text
from gossamer.prune import CalibrationSet, keep_masks, prune
from gossamer.prune.calibration import collect_norms

SEQUENCES = tuple(tuple(np.random.default_rng(i).integers(3, 250, 40 + i).tolist()) for i in range(4))
CALIBRATION = CalibrationSet((SEQUENCES[:1], SEQUENCES[1:]))


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The small grey cat sleeps while the quick brown fox jumps, and 漢字とかな. " * 12, encoding="utf-8")
    return path


def rms_normed_embeddings(model, tokens):
    """What the first layer's q, k and v projections see, from the stored weights in float64."""
    with ModelReader(model) as reader:
        hidden = reader.dense("model.embed_tokens.weight").astype(np.float64)[tokens]
        weight = reader.dense("model.layers.0.input_layernorm.weight").astype(np.float64)
        eps = reader.config["rms_norm_eps"]
    return hidden / np.sqrt((hidden**2).mean(axis=1, keepdims=True) + eps) * weight


def test_the_first_layers_norms_are_those_of_its_inputs(tiny_model):
    norms = collect_norms(tiny_model, CALIBRATION, runtime_options={"num_threads": 2})
    squares = [
        np.mean(np.concatenate([rms_normed_embeddings(tiny_model, list(s)) for s in group]) ** 2, axis=0) for group in CALIBRATION.groups
    ]
    expected = np.sqrt(np.mean(squares, axis=0))
    for projection in ("q_proj", "k_proj", "v_proj"):
        np.testing.assert_allclose(norms[f"model.layers.0.self_attn.{projection}.weight"], expected, rtol=1e-5)


def test_every_pruned_linear_is_calibrated_and_threads_do_not_matter(tiny_model):
    one = collect_norms(tiny_model, CALIBRATION, runtime_options={"num_threads": 1})
    two = collect_norms(tiny_model, CALIBRATION, runtime_options={"num_threads": 2})
    assert len(one) == 3 * 7
    for name, norm in one.items():
        np.testing.assert_array_equal(norm, two[name])
        assert (norm >= 0).all()
        assert norm.any()


def test_the_pruned_model_runs_and_says_how_sparse_it_is(tiny_model, tmp_path):
    (report,) = prune(tiny_model, {0.7: tmp_path / "pruned"}, calibration=CALIBRATION, runtime_options={"num_threads": 2})
    norms = collect_norms(tiny_model, CALIBRATION, runtime_options={"num_threads": 2})
    with ModelReader(tiny_model) as before, ModelReader(report.directory) as after:
        for name in norms:
            mask = keep_masks(before.dense(name), [0.7], norms[name])[0]
            np.testing.assert_array_equal(after.dense(name), np.where(mask, before.dense(name), 0))
    with Runtime(report.directory, num_threads=2) as runtime:
        assert runtime.info().sparsity == pytest.approx(report.actual_sparsity)
        assert runtime.info().pruning["method"] == "wanda"
        assert len(runtime.generate([[1, 2, 3]], max_tokens=4, ignore_eos=True)[0].outputs[0].token_ids) == 4


def test_wanda_beats_magnitude_on_its_calibration_text(tmp_path, tiny_model):
    """Inputs of very different strength are what Wanda is about: make some features of every norm loud."""
    loud = _with_loud_features(tiny_model, tmp_path / "loud")
    for method in ("wanda", "magnitude"):
        prune(loud, {0.7: tmp_path / method}, method=method, calibration=CALIBRATION, runtime_options={"num_threads": 2})

    def logprobs(model):
        with Runtime(model, num_threads=2) as runtime:
            return np.concatenate([scores[1:] for scores in runtime.score([list(s) for s in SEQUENCES])])

    reference = logprobs(loud)
    error = {method: np.abs(logprobs(tmp_path / method) - reference).mean() for method in ("wanda", "magnitude")}
    assert error["wanda"] < 0.9 * error["magnitude"]


def _with_loud_features(model, path):
    from gossamer.checkpoint import ModelWriter

    scale = np.where(np.arange(48) % 6 == 0, 8.0, 0.5).astype(np.float32)
    with ModelReader(model) as reader:
        source = {"kind": "gossamer", "name": "tiny", "sha256": reader.manifest.model_id}
        with ModelWriter(path, side_files=reader.side_files(), source=source, producer="test") as writer:
            for name in reader.names():
                tensor = reader.dense(name)
                writer.add_dense(name, tensor * scale if name.endswith("layernorm.weight") else tensor)
            writer.finish()
    return path


def test_score_of_a_text_does_not_depend_on_the_batch(tiny_model, text_file):
    with Runtime(tiny_model, num_threads=2) as runtime:
        text = EvaluationText.from_file(text_file, runtime.tokenizer, window=32)
        together = runtime.score([list(s) for s in text.sequences])
        np.testing.assert_array_equal(score_text(runtime, text).losses, [-s[1:].astype(np.float64).mean() for s in together])


def test_eval_command(tiny_model, text_file):
    result = CliRunner().invoke(cli, ["eval", str(tiny_model), str(tiny_model), "--text", str(text_file), "--window", "32", "--json"])
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.output)["models"]
    assert first["texts"][0]["perplexity"] > 1
    assert second["texts"][0]["perplexity_ratio"] == 1.0


def test_measure_counts_every_token(tiny_model):
    with Runtime(tiny_model, num_threads=2, max_num_seqs=2) as runtime:
        before = runtime.stats()
        timing = measure(runtime, Shape(batch=3, prompt_tokens=5, new_tokens=7))
        after = runtime.stats()
    assert [len(times) for times in timing.arrivals] == [7, 7, 7]
    assert all(times == tuple(sorted(times)) for times in timing.arrivals)
    assert after.requests_finished - before.requests_finished == 3


def test_rows_of_a_real_model(tiny_model):
    runs = []
    rows = measure_model(tiny_model, [Shape(1, 8, 4), Shape(2, 8, 4)], repeats=2, runtime_options={"num_threads": 2}, progress=runs.append)
    assert [row.batch for row in rows] == [1, 2]
    assert runs == [1, 2, 3, 4, 5, 6]
    for row in rows:
        assert row.decode_tok_s > 0
        assert row.prefill_tok_s > 0
        assert row.weight_bytes > 0
        assert 0.4 < row.sparsity < 0.6


def test_a_fresh_process_measures_its_own_memory(tiny_model):
    ballast = bytearray(b"x") * (256 << 20)
    row = measure_fresh(tiny_model, Shape(1, 4, 2), repeats=1, runtime_options={"num_threads": 1})
    assert row.peak_rss_mb < 200
    assert len(ballast) == 256 << 20


def test_a_failing_fresh_process_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="the measuring process failed"):
        measure_fresh(tmp_path, Shape(1, 4, 2))


def test_bench_command(tiny_model):
    args = ["bench", str(tiny_model), "--tokens", "4/3", "--batch", "1,2", "--repeats", "1", "--num-threads", "1", "--format", "json"]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 0, result.output
    assert [row["batch"] for row in json.loads(result.output)["rows"]] == [1, 2]
