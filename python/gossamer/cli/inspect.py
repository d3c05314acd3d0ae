"""gossamer inspect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gossamer.checkpoint.inspect import ModelSummary

__all__ = ["command"]

EXAMPLES = """\b
Examples:
  gossamer inspect models/smollm2-40
  gossamer inspect models/smollm2-40 --totals --png density.png
  gossamer inspect models/smollm2-40 --json | jq .totals
"""
_BAR = 40


@click.command(name="inspect", epilog=EXAMPLES, context_settings={"show_default": True})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--totals", is_flag=True, help="Leave out the table of tensors.")
@click.option("--quick", is_flag=True, help="Believe the manifest: read and verify no weights (zeros of dense tensors stay unknown).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Also draw the density histogram to this file.")
def command(model: Path, totals: bool, quick: bool, as_json: bool, png: Path | None) -> None:
    """Show MODEL's tensors: encoding, dtype, shape, sparsity and bytes, and how dense its matrices are. Verifies every digest."""
    from gossamer.checkpoint.inspect import plot_histogram, summarize

    summary = summarize(model, read_data=not quick)
    if as_json:
        click.echo(json.dumps(summary.as_json(), indent=2))
    else:
        if not totals:
            click.echo(_table(summary) + "\n")
        click.echo(_totals(summary) + "\n\n" + _histogram(summary))
    if png is not None:
        plot_histogram(summary, png)
        click.echo(f"Wrote {png}", err=True)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def _table(summary: ModelSummary) -> str:
    rows = [("tensor", "encoding", "dtype", "shape", "sparsity", "bytes")]
    rows += [(t.name, t.encoding, t.dtype, "×".join(map(str, t.shape)), _percent(t.sparsity), f"{t.bytes:,}") for t in summary.tensors]
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = []
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join(left + right))
    return "\n".join(lines)


def _totals(summary: ModelSummary) -> str:
    totals = summary.as_json()["totals"]
    lines = [
        ("architecture", summary.architecture),
        ("model id", summary.model_id),
        ("made by", f"{summary.producer} from {summary.source.get('name', '?')} ({summary.source.get('kind', '?')})"),
        ("weights", f"{totals['weights']:,} in {totals['tensors']} tensors"),
        ("tensors' bytes", f"{totals['tensor_bytes']:,} ({_percent(totals['tensor_bytes'] / max(1, totals['dense_bytes']))} of dense)"),
        ("on disk", f"{totals['file_bytes']:,} bytes"),
    ]
    if totals["bitmap_weights"]:
        share = totals["bitmap_zeros"] / totals["bitmap_weights"]
        lines.append(("sparse", f"{totals['bitmap_weights']:,} weights, {_percent(share)} of them zero"))
    if summary.pruning:
        lines.append(("pruning", ", ".join(f"{key} {value}" for key, value in summary.pruning.items())))
    return "\n".join(f"{name:15} {value}" for name, value in lines)


def _histogram(summary: ModelSummary) -> str:
    from gossamer.checkpoint.inspect import BUCKETS, histogram

    counts = histogram(summary.tensors)
    most = max(max(counts), 1)
    step = 100 // BUCKETS
    lines = [f"{i * step:3}-{(i + 1) * step:3}%  {'█' * round(_BAR * n / most) or '▏':{_BAR}}  {n:,}" for i, n in enumerate(counts) if n]
    return "\n".join(["density of matrices, by weights", *lines])
