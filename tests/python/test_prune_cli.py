"""`gossamer prune` from the outside."""

import re
from pathlib import Path

import numpy as np
import pytest
import tiny_model as tiny
from click.testing import CliRunner
from test_prune_pipeline import make_model

from gossamer.checkpoint import ModelReader
from gossamer.cli import cli
from gossamer.cli.amounts import Size
from gossamer.cli.prune import outputs
from gossamer.prune.budget import rounded, stored_bytes
from gossamer.quantize import Quantizer


def run(*args):
    return CliRunner().invoke(cli, ["prune", *map(str, args)])


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "dense")


def test_magnitude_end_to_end(model, tmp_path):
    result = run(model, tmp_path / "out", "--sparsity", "0.5", "--method", "magnitude")
    assert result.exit_code == 0, result.output
    assert "50.00% of 2,048 projection weights are zero" in result.output
    with ModelReader(tmp_path / "out") as reader:
        assert reader.manifest.pruning["method"] == "magnitude"


def test_several_sparsities_get_a_directory_each(model, tmp_path):
    result = run(model, tmp_path / "out", "--sparsity", "0.25,0.5", "--method", "magnitude")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dense", "out-25", "out-50"]


def test_names_of_several_outputs():
    assert outputs(Path("a/b"), (0.3, 0.625)) == {0.3: Path("a/b-30"), 0.625: Path("a/b-62.5")}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--sparsity", "40"], "40 is not between 0 and 1"),
        (["--sparsity", "half"], "'half' is not a fraction"),
        (["--sparsity", "0.5,0.5"], "names a fraction twice"),
        ([], "Give one of --sparsity, --pattern, --target-bytes and --target-speedup"),
        (["--sparsity", "0.5", "--target-bytes", "1MB"], "Give one of"),
        (["--pattern", "4:2"], "'4:2' is not N:M"),
        (["--pattern", "1:3"], "'1:3' is not N:M"),
        (["--target-bytes", "big"], "'big' is not a size such as 180MB"),
        (["--target-speedup", "1"], "not in the range x>1"),
        (["--sparsity", "0.5", "--method", "obs"], "'obs' is not one of 'auto', 'alps', 'sparsegpt', 'wanda', 'magnitude'"),
        (["--sparsity", "0.5", "--method", "magnitude", "--calibration", __file__], "of no use with --method magnitude"),
    ],
)
def test_wrong_usage(model, tmp_path, args, message):
    result = run(model, tmp_path / "out", *args)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_pattern(model, tmp_path):
    result = run(model, tmp_path / "out", "--pattern", "2:4", "--method", "magnitude")
    assert result.exit_code == 0, result.output
    with ModelReader(tmp_path / "out") as reader:
        assert reader.manifest.pruning == {"method": "magnitude", "sparsity": 0.5, "calibration_sha256": None, "pattern": "2:4"}
        weight = reader.dense("model.layers.0.mlp.up_proj.weight")
    assert (np.count_nonzero(weight.reshape(-1, 4), axis=1) == 2).all()


@pytest.mark.parametrize(("text", "size"), [("180MB", 180_000_000), ("1.5GiB", 1_610_612_736), ("4096", 4096), ("2 kb", 2000)])
def test_sizes(text, size):
    assert Size().convert(text, None, None) == size


def test_a_size_or_a_speed_is_turned_into_a_sparsity(tmp_path):
    model = tiny.write_model(tmp_path / "dense")
    for amount, expected in ((["--target-bytes", "1320000"], 0.7), (["--target-speedup", "1.2", "--target-device", "cpu"], 0.5)):
        result = run(model, tmp_path / "out", "--method", "magnitude", "--overwrite", *amount)
        assert result.exit_code == 0, result.output
        found = float(re.search(r"That takes a sparsity of ([\d.]+)%", result.output)[1]) / 100
        assert found == pytest.approx(expected, abs=0.25)
        with ModelReader(tmp_path / "out") as reader:
            assert reader.manifest.pruning["sparsity"] == found
    assert sum(f.stat().st_size for f in (tmp_path / "out").iterdir()) < 1_320_000


@pytest.mark.parametrize("values", ["int8", "int4", "fp8"])
def test_a_size_counts_what_rounding_leaves(tmp_path, values):
    model = tiny.write_model(tmp_path / "dense")
    with ModelReader(model) as reader:
        records, side_files = {name: reader.record(name) for name in reader.names()}, reader.side_files()
        expected = rounded(records, reader.manifest.architecture, Quantizer(values))
    targets = [name for name in records if "_proj" in name and ".layers.0." not in name]
    target = stored_bytes(expected, targets, 0.7, side_files, rounds=True)
    options = ["--method", "magnitude", "--values", values, "--keep", "*.layers.0.*"]
    result = run(model, tmp_path / "out", *options, "--target-bytes", target)
    assert result.exit_code == 0, result.output
    assert float(re.search(r"That takes a sparsity of ([\d.]+)%", result.output)[1]) == pytest.approx(70, abs=0.02)
    assert sum(f.stat().st_size for f in (tmp_path / "out").iterdir()) <= target
    with ModelReader(tmp_path / "out") as reader:
        for name, record in expected.items():
            if name not in targets:  # small values are rounded to 0, which is not stored
                assert 0 <= 1 - reader.record(name).stored_bytes / record.stored_bytes <= (0.1 if values == "int4" else 0.01)
        written = sum(reader.record(name).stored_bytes for name in targets)
    counted = stored_bytes({name: expected[name] for name in targets}, targets, 0.7, {}, rounds=True) - (1 << 20)
    assert written <= counted < 1.1 * written


def test_the_device_that_runs_the_layers(tmp_path):
    model, chat = tiny.write_model(tmp_path / "dense"), tmp_path / "chat.txt"
    chat.write_text(tiny.TEXT * 3)
    options = ["--sparsity", "0.6", "--method", "wanda", "--calibration", chat, "--calibration-length", "32"]
    assert run(model, tmp_path / "out", *options, "--device", "reference").exit_code == 0
    result = run(model, tmp_path / "other", *options, "--device", "abacus")
    assert result.exit_code != 0
    assert "abacus" in f"{result.output}{result.exception}"


def test_kept_projections(model, tmp_path):
    result = run(model, tmp_path / "out", "--sparsity", "0.5", "--method", "magnitude", "--keep", "*.down_proj.*")
    assert result.exit_code == 0, result.output
    assert "50.00% of 1,280 projection weights are zero" in result.output


def test_a_missing_model(tmp_path):
    result = run(tmp_path / "absent", tmp_path / "out", "--sparsity", "0.5")
    assert result.exit_code == 2
    assert "does not exist" in result.output
