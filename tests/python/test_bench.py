"""The benchmark's arithmetic and its tables; what it measures is checked on a real model in test_runtime and the demo."""

import csv
import io
import json
import math

import pytest
from click.testing import CliRunner

from gossamer.bench.table import comma_separated, markdown
from gossamer.cli import cli

measure = pytest.importorskip("gossamer.bench.measure")
peers = pytest.importorskip("gossamer.bench.peers")
results = pytest.importorskip("gossamer.bench.results")
stages = pytest.importorskip("gossamer.bench.stages")
bench_command = pytest.importorskip("gossamer.cli.bench")


def timing():
    return measure.Timing(((0.5, 1.0, 1.5, 2.0), (1.0, 1.5, 2.0, 2.5)))


def test_prefill_ends_with_the_last_first_token():
    assert timing().prefill_seconds == 1.0
    assert timing().first_token_seconds == [0.5, 1.0]


def test_decode_counts_only_what_comes_after_prefill():
    assert timing().decode_tokens_per_second == pytest.approx(5 / 1.5)


def test_inter_token_times():
    assert timing().inter_token_seconds == [0.5] * 6


def test_one_new_token_has_no_decode_speed():
    assert math.isnan(measure.Timing(((0.5,),)).decode_tokens_per_second)


def test_tokens_that_arrive_together_share_the_time():
    times = []
    measure._note(times, 1.0, 1)
    measure._note(times, 2.0, 2)
    assert times == [1.0, 1.5, 2.0]
    times = []
    measure._note(times, 3.0, 3)
    assert times == [1.0, 2.0, 3.0]


def test_peak_rss_grows_with_what_is_touched():
    before = measure.peak_rss_bytes()
    block = bytearray(b"x") * (64 << 20)
    assert measure.peak_rss_bytes() >= before + (32 << 20)
    del block


def row(**changes):
    values = dict.fromkeys(measure.Row.__dataclass_fields__, 1.0)
    values |= {"model": "m", "weights": "stored", "dtype": "f32", "candidates": "", "device": "cpu", "batch": 1, "prompt_tokens": 2}
    values |= {"new_tokens": 3, "context": 5, "repeats": 5, "sparsity": 0.4, "peer": "", "peer_decode_tok_s": float("nan")}
    return measure.Row(**(values | {"weight_bytes": 10} | changes))


def test_every_format_has_every_row():
    rows = [row(), row(model="n", itl_p50_ms=float("nan"))]
    assert [line["model"] for line in csv.DictReader(io.StringIO(bench_command.render(rows, "csv")))] == ["m", "n"]
    data = json.loads(bench_command.render(rows, "json"))
    assert [entry["model"] for entry in data["rows"]] == ["m", "n"]
    assert data["rows"][1]["itl_p50_ms"] is None
    assert {"cpu", "commit", "command", "date"} <= set(data["context"])
    assert len(bench_command.render(rows, "md").splitlines()) == 4
    needed = {"model", "weights", "sparsity", "dtype", "batch", "prompt_tokens", "new_tokens", "context", "prefill_tok_s", "decode_tok_s"}
    needed |= {"step_ms", "roofline_ms", "peak_gb", "peer", "peer_decode_tok_s", "device", "commit", "command", "date", "read_gbps"}
    assert needed <= set(data["rows"][0])
    beside = bench_command.render([row(peer="transformers compiled", peer_decode_tok_s=0.5)], "md")
    assert "transformers compiled" in beside
    assert "0 (2.00×)" in beside


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--batch", "0"], "'0' is not a positive integer"),
        (["--batch", "1,x"], "'1,x' is not a positive integer"),
        (["--tokens", "128"], "'128' is not two positive integers"),
        (["--tokens", "128/0"], "'128/0' is not two positive integers"),
        (["--sparsity", "1"], "'1' is not a number in [0, 1)"),
        (["--sparsity", "0,x"], "'0,x' is not a number in [0, 1)"),
        (["--peer", "transformers eager"], "give --config, and no MODEL"),
    ],
)
def test_wrong_usage(tmp_path, args, message):
    result = CliRunner().invoke(cli, ["bench", str(tmp_path), *args])
    assert result.exit_code == 2
    assert message in result.output


def test_it_measures_something():
    result = CliRunner().invoke(cli, ["bench"])
    assert result.exit_code == 2
    assert "name a model directory, or a configuration with --config" in result.output


CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": False,
}  # fmt: skip


def test_shapes_with_random_weights(tmp_path):
    config, results = tmp_path / "tiny.json", tmp_path / "results.json"
    config.write_text(json.dumps(CONFIG))
    command = ["bench", "--config", str(config), "--sparsity", "0,0.6", "--device", "cpu", "--num-threads", "1", "--tokens", "4/4"]
    command += ["--repeats", "1", "--format", "json", "--results", str(results), "--candidates", "ahead"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    dense, sparse = json.loads(results.read_text())["rows"]
    assert (dense["model"], dense["weights"], dense["sparsity"], dense["candidates"]) == ("tiny", "random", 0.0, "ahead")
    assert sparse["sparsity"] == pytest.approx(0.6, abs=0.01)
    assert sparse["weight_bytes"] < dense["weight_bytes"]
    layer = (4 + 2 * 2) * 16 * 64 + 64 * 64 + 3 * 96 * 64 + 2 * 64
    parameters = 2 * layer + 64 + 64 * 64  # without the embedding, of which a step reads a row
    kv_bytes = 2 * 2 * 2 * 16 * 4 * (4 + 2)
    assert 1e-3 * dense["roofline_ms"] * 1e9 * dense["read_gbps"] == pytest.approx(4 * parameters + kv_bytes, rel=0.02)
    assert dense["step_ms"] == pytest.approx(1e3 / dense["decode_tok_s"])
    assert dense["read_gbps"] > 0.1


def test_a_results_file_keeps_one_row_for_each_thing(tmp_path):
    path = tmp_path / "results.json"
    base = {"model": "m", "weights": "random", "sparsity": 0.6, "batch": 1, "device": "d"}
    results.add_rows(
        path, [{**base, "decode_tok_s": 1.0, "peer": "p", "peer_decode_tok_s": 3.0}, {**base, "batch": 8, "decode_tok_s": 2.0}]
    )
    results.add_rows(path, [{**base, "sparsity": 0.6003, "decode_tok_s": 4.0, "peer": ""}])
    first, second = json.loads(path.read_text())["rows"]
    assert (first["decode_tok_s"], first["peer"], first["peer_decode_tok_s"]) == (4.0, "p", 3.0)
    assert second["decode_tok_s"] == 2.0
    path.write_text("[]")
    with pytest.raises(ValueError, match="no file of results"):
        results.add_rows(path, [])


def kernel(name, ts, dur, cat="kernel"):
    return {"name": name, "cat": cat, "ts": ts, "dur": dur}


def test_stages_of_a_profile():
    """Steps of 100 µs with a gap of 10 in each, between others that are longer; launches that overlap count once."""
    events = [kernel("prefill", 0, 50), kernel("Memcpy DtoH", 60, 2, "gpu_memcpy")]
    for step in range(6):
        begin = 100 + 100 * step
        events += [
            kernel("void gossamer::spmm_decode_kernel<1>", begin, 60),
            kernel("norm_vector_kernel", begin + 55, 15),
            kernel("attention_decode_kernel", begin + 80, 15),
            kernel("Memcpy DtoH (Device -> Pinned)", begin + 95, 5, "gpu_memcpy"),
        ]
    profile = stages.summarize([*events, {"name": "cudaGraphLaunch", "cat": "cuda_runtime", "ts": 0, "dur": 9}])
    assert profile.steps == 5
    assert profile.step_ms == pytest.approx(0.1)
    assert profile.idle_ms == pytest.approx(0.01)
    assert {s.name: (round(s.ms, 6), s.launches) for s in profile.stages} == {
        "sparse products": (0.06, pytest.approx(1)),
        "norms": (0.015, pytest.approx(1)),
        "attention": (0.015, pytest.approx(1)),
        "copies": (0.005, pytest.approx(1)),
    }
    with pytest.raises(ValueError, match="no step"):
        stages.summarize(events[:1])


def test_a_peer_that_fails_says_why(tmp_path):
    config = tmp_path / "broken.json"
    config.write_text("{}")
    with pytest.raises(peers.PeerError, match="transformers eager: "):
        peers.measure_peer("transformers eager", config, measure.Shape(1, 2, 3), device="cpu", dtype="float32")


@pytest.mark.hf
def test_transformers_as_a_peer(tmp_path):
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(CONFIG))
    assert peers.measure_peer("transformers eager", config, measure.Shape(2, 4, 8), device="cpu", dtype="float32") > 0


def test_markdown_aligns():
    text = markdown([{"name": "α ± β", "value": "1.5"}, {"name": "b", "value": "10.25"}])
    assert text.splitlines() == ["| name  | value |", "|-------|------:|", "| α ± β |   1.5 |", "| b     | 10.25 |"]
    assert markdown([]) == ""


def test_csv_quotes():
    assert comma_separated([{"a": 'x,"y"', "b": 1}]) == 'a,b\n"x,""y""",1\n'
    assert comma_separated([]) == ""
