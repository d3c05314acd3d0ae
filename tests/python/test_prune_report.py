"""The report: what it measures is right, and the page shows it."""

from __future__ import annotations

import json

import pytest
import tiny_model as tiny
from click.testing import CliRunner
from test_layer_stream import CALIBRATION
from test_prune_layerwise import OPTIONS, dense  # noqa: F401

from gossamer import Runtime, texts
from gossamer.bench.measure import Shape
from gossamer.checkpoint import ModelReader
from gossamer.cli import cli
from gossamer.evaluate import EvaluationText, score_text
from gossamer.prune import prune, report

SIZE = report.Size(windows=2, window=48, speed=Shape(batch=1, prompt_tokens=4, new_tokens=4), repeats=1, answer_tokens=5)


@pytest.fixture(scope="module")
def pruned(dense, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("pruned")
    found = {0.3: out / "model-30", 0.6: out / "model-60"}
    prune(dense, found, method="alps", allocation="sensitivity", calibration=CALIBRATION, runtime_options=OPTIONS)
    return found


def test_what_is_measured(dense, pruned):  # noqa: F811
    steps = []
    found = report.measure_models(dense, list(pruned.values()), SIZE, 2, lambda *step: steps.append(step))
    assert [model.name for model in found] == ["model", "model-30", "model-60"]
    assert [model.sparsity for model in found] == pytest.approx([0.0, 0.3, 0.6], abs=0.01)
    assert [model.method for model in found] == ["dense", "alps", "alps"]
    assert steps == [(i, 11) for i in range(1, 12)]
    for model, path in zip(found, [dense, *pruned.values()], strict=True):
        assert model.disk_bytes == sum(file.stat().st_size for file in path.iterdir())
        with Runtime(path, num_threads=2) as runtime:
            for file in texts.EVALUATION:
                text = EvaluationText.from_file(file, runtime.tokenizer, window=48, max_windows=2)
                assert model.scores[file.name].loss == pytest.approx(score_text(runtime, text).loss)
        assert len(model.answers) == len(texts.PROMPTS)
        assert model.speed.decode_tok_s > 0
    assert found[0].divergences is None
    assert 0 < found[1].divergences["evaluation_prose.txt"].divergence < found[2].divergences["evaluation_prose.txt"].divergence
    with ModelReader(pruned[0.6]) as reader:
        records = [reader.record(n) for n in reader.names() if "layers.1.mlp" in n and "_proj" in n]
    assert found[2].densities["MLP"][1] == pytest.approx(sum(r.nnz for r in records) / sum(r.size for r in records))
    assert found[2].densities["MLP"].shape == found[2].densities["attention"].shape == (tiny.LAYERS,)


def test_the_page(dense, pruned, tmp_path):  # noqa: F811
    page = report.write_report(tmp_path / "report", dense, pruned, size=SIZE, num_threads=2)
    lines = page.read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.startswith("|--")]) == 2 + len(texts.PROMPTS)  # models, layers, answers
    assert all(any(prompt in line for line in lines) for prompt in texts.PROMPTS)
    assert len([line for line in lines if line.startswith(("| 0 ", "| 1 ", "| 2 "))]) == tiny.LAYERS
    png = (tmp_path / "report" / "report.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 10_000


def test_text_of_a_model_does_not_break_the_table():
    assert report._cell("a | b\n<br>") == "a \\| b &lt;br>"


def test_the_command(dense, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(report, "Size", lambda: SIZE)
    chat = tmp_path / "chat.jsonl"
    chat.write_text((json.dumps({"messages": [{"role": "user", "content": tiny.TEXT}]}) + "\n") * 3)
    args = ["prune", str(dense), str(tmp_path / "out"), "--sparsity", "0.5", "--calibration", str(chat), "--calibration-length", "32"]
    result = CliRunner().invoke(cli, [*args, "--num-threads", "2", "--report", str(tmp_path / "page")])
    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'page' / 'report.md'}: the report" in result.output
    assert "50.0%" in (tmp_path / "page" / "report.md").read_text() or "49.9%" in (tmp_path / "page" / "report.md").read_text()
