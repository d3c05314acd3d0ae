"""`gossamer tune` and where its tables are kept. The measuring itself is tested in C++, with a fake GPU."""

import pytest
from click.testing import CliRunner

from gossamer import _core, cost_tables
from gossamer.cli import tune
from gossamer.errors import DeviceError

GPUS = [{"name": "NVIDIA H100 80GB HBM3"}, {"name": "Other (rev. 2)"}]


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_core, "probe_backend", lambda name: {"devices": GPUS})

    def measure(name, index, progress):
        progress("dense, k = 1024")
        return f"table of {GPUS[index]['name']}\n"

    monkeypatch.setattr(_core, "tune_backend", measure)
    return tmp_path / "gossamer"


def test_a_table_is_found_by_the_gpu_it_was_made_on(gpus):
    assert cost_tables.stored_table("cuda") == ""
    result = CliRunner().invoke(tune.command, ["--device", "cuda:1"])
    assert result.exit_code == 0, result.output
    path = gpus / "cost_table_other_rev_2.txt"
    assert path.read_text() == "table of Other (rev. 2)\n"
    assert f"Wrote {path}" in result.output
    assert "Measuring dense, k = 1024" in result.output
    assert cost_tables.stored_table("cuda:1") == str(path)
    assert cost_tables.stored_table("cuda:0") == cost_tables.stored_table("auto") == cost_tables.stored_table("cpu") == ""
    assert cost_tables.stored_table("cuda:7") == ""


def test_output_goes_where_it_is_told(gpus, tmp_path):
    result = CliRunner().invoke(tune.command, ["--output", str(tmp_path / "new" / "t.txt")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "new" / "t.txt").read_text() == "table of NVIDIA H100 80GB HBM3\n"
    assert not gpus.exists()


def test_a_failed_run_leaves_the_old_table(gpus, monkeypatch):
    CliRunner().invoke(tune.command, [])
    before = sorted(gpus.iterdir())

    def fail(*_):
        raise DeviceError("busy")

    monkeypatch.setattr(_core, "tune_backend", fail)
    assert isinstance(CliRunner().invoke(tune.command, []).exception, DeviceError)
    assert sorted(gpus.iterdir()) == before


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda:", "cuda:x", "cuda:9"])
def test_devices_that_cannot_be_tuned_are_refused(gpus, device):
    result = CliRunner().invoke(tune.command, ["--device", device])
    assert result.exit_code == 2
    assert "--device" in result.output


def test_without_a_backend_there_is_no_table(monkeypatch):
    def missing(name):
        raise DeviceError("not in this build")

    monkeypatch.setattr(_core, "probe_backend", missing)
    assert cost_tables.stored_table("auto") == ""
