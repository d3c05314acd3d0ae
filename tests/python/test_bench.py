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
    values |= {"model": "m", "device": "cpu", "batch": 1, "prompt_tokens": 2, "new_tokens": 3, "repeats": 5, "sparsity": 0.4}
    return measure.Row(**(values | {"weight_bytes": 10} | changes))


def test_every_format_has_every_row():
    rows = [row(), row(model="n", itl_p50_ms=float("nan"))]
    assert [line["model"] for line in csv.DictReader(io.StringIO(bench_command.render(rows, "csv")))] == ["m", "n"]
    data = json.loads(bench_command.render(rows, "json"))
    assert [entry["model"] for entry in data["rows"]] == ["m", "n"]
    assert data["rows"][1]["itl_p50_ms"] is None
    assert {"cpu", "commit", "command", "date"} <= set(data["context"])
    assert len(bench_command.render(rows, "md").splitlines()) == 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--batch", "0"], "'0' is not a positive integer"),
        (["--batch", "1,x"], "'1,x' is not a positive integer"),
        (["--tokens", "128"], "'128' is not two positive integers"),
        (["--tokens", "128/0"], "'128/0' is not two positive integers"),
    ],
)
def test_wrong_usage(tmp_path, args, message):
    result = CliRunner().invoke(cli, ["bench", str(tmp_path), *args])
    assert result.exit_code == 2
    assert message in result.output


def test_markdown_aligns():
    text = markdown([{"name": "α ± β", "value": "1.5"}, {"name": "b", "value": "10.25"}])
    assert text.splitlines() == ["| name  | value |", "|-------|------:|", "| α ± β |   1.5 |", "| b     | 10.25 |"]
    assert markdown([]) == ""


def test_csv_quotes():
    assert comma_separated([{"a": 'x,"y"', "b": 1}]) == 'a,b\n"x,""y""",1\n'
    assert comma_separated([]) == ""
