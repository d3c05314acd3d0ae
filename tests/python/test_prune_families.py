"""Every family that the runtime loads can be pruned by the default method."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models

from gossamer import Runtime
from gossamer.checkpoint import ModelReader
from gossamer.convert import convert
from gossamer.prune import CalibrationSet, prune
from gossamer.prune.select import select

FAMILIES = ("llama_bias_linear", "mistral", "qwen2_window", "qwen3", "opt", "opt_350m")


@pytest.mark.parametrize("name", FAMILIES)
def test_it_prunes_loads_and_generates(name: str, tmp_path: Path) -> None:
    convert(tiny_models.write(name, tmp_path / "source"), tmp_path / "model")
    ids = tiny_models.prompt()
    calibration = CalibrationSet(((tuple(ids), tuple(reversed(ids))),))
    (report,) = prune(tmp_path / "model", {0.5: tmp_path / "out"}, calibration=calibration, runtime_options={"num_threads": 2})
    assert report.actual_sparsity == pytest.approx(0.5, abs=0.005)
    with ModelReader(tmp_path / "model") as before, ModelReader(tmp_path / "out") as after:
        pruned = set(select({n: after.record(n).shape for n in after.names()}))
        assert pruned
        for tensor in after.names():
            if tensor in pruned:
                assert after.record(tensor).encoding == "bitmap"
            else:
                assert before.dense(tensor).tobytes() == after.dense(tensor).tobytes()
        weights = sum(after.record(n).size for n in pruned)
        assert weights == report.weights
    with Runtime(tmp_path / "out", num_threads=2) as runtime:
        (output,) = runtime.generate([ids], max_tokens=8, temperature=0, ignore_eos=True)
        assert len(output.outputs[0].token_ids) == 8
        assert runtime.info().sparsity == pytest.approx(0.5, abs=0.005)
