"""The programs that measure tensor parallel on GPUs, tried on CPU ranks: what they write, and that they see faults."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import needs_mpirun

BENCH = Path(__file__).resolve().parents[2] / "benchmarks" / "tensor_parallel"
sys.path.insert(0, str(BENCH))

import plan  # noqa: E402
import rows  # noqa: E402


@needs_mpirun
def test_a_run_writes_all_parts(tmp_path: Path) -> None:
    results = tmp_path / "tp.json"
    command = [sys.executable, BENCH / "run.py", "tiny", results, "--device", "cpu", "--limit", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(results.read_text())
    assert "failures" not in data, data["failures"]
    assert "skipped" not in data, data["skipped"]
    assert [row["ok"] for row in data["parity"]] == [True]
    assert sorted((row["gpus"], row["batch"]) for row in data["rows"]) == [(1, 2), (1, 4), (2, 2), (2, 4)]
    for row in data["rows"]:
        assert row["decode_tok_s"] > 0
        assert row["tokens_per_gpu_s"] == pytest.approx(row["decode_tok_s"] / row["gpus"])
    assert [row["ok"] for row in data["faults"]] == [True, True], data["faults"]


def test_rows_of_other_models_decide_no_target() -> None:
    row = {"model": "opt-30b", "sparsity": 0.0, "batch": 8, "new_tokens": 128, "tokens_per_gpu_s": 0.0}
    found = rows.targets([row | {"gpus": 1, "decode_tok_s": 100.0}, row | {"gpus": 2, "decode_tok_s": 170.0}])
    assert [target["ok"] for target in found] == [True, None, None, None, None, None]
    assert found[0]["value"] == pytest.approx(1.7)
    slow = rows.targets([row | {"gpus": 1, "decode_tok_s": 100.0}, row | {"gpus": 2, "decode_tok_s": 160.0}])
    assert slow[0]["ok"] is False


def test_what_differs_from_one_rank_is_told() -> None:
    alone = {"greedy": [[1, 2, 3]], "scores": [[0.0, -1.0]]}
    near = rows.compare(alone, {"greedy": [[1, 2, 4]], "scores": [[0.0, -1.001]]})
    assert near["ok"]
    assert near["equal_tokens"] == [2]
    assert not rows.compare(alone, {"greedy": [[1, 2, 3]], "scores": [[0.0, -2.0]]})["ok"]
    assert not rows.compare(alone, {"error": "exit code 1"})["ok"]
    assert not rows.compare(None, alone)["ok"]


@pytest.mark.parametrize("name", plan.PLANS)
def test_every_cell_has_a_configuration_that_its_ranks_divide(name: str) -> None:
    for cell in plan.PLANS[name]():
        config = cell.job()["config"]
        for size in ("num_attention_heads", "ffn_dim", "vocab_size"):
            assert config[size] % cell.gpus == 0, cell
