"""Eval and bench with the real runtime on a tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from gossamer import Runtime
from gossamer.bench.fresh import measure_fresh
from gossamer.bench.measure import Shape, measure, measure_model
from gossamer.cli import cli
from gossamer.evaluate import EvaluationText, score_text


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The small grey cat sleeps while the quick brown fox jumps, and 漢字とかな. " * 12, encoding="utf-8")
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
