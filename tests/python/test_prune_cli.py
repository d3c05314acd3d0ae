"""`gossamer prune` from the outside."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from test_prune_pipeline import make_model

from gossamer.checkpoint import ModelReader
from gossamer.cli import cli
from gossamer.cli.prune import outputs


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
        ([], "Missing option '--sparsity'"),
        (["--sparsity", "0.5", "--method", "obs"], "'obs' is not one of 'auto', 'alps', 'sparsegpt', 'wanda', 'magnitude'"),
        (["--sparsity", "0.5", "--method", "magnitude", "--calibration", __file__], "of no use with --method magnitude"),
    ],
)
def test_wrong_usage(model, tmp_path, args, message):
    result = run(model, tmp_path / "out", *args)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_missing_model(tmp_path):
    result = run(tmp_path / "absent", tmp_path / "out", "--sparsity", "0.5")
    assert result.exit_code == 2
    assert "does not exist" in result.output
