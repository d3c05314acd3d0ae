"""gossamer tune."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

__all__ = ["command"]

EXAMPLES = """\b
Examples:
  gossamer tune
  gossamer tune --device cuda:1
  gossamer tune --output table.txt
"""


@click.command(name="tune", epilog=EXAMPLES)
@click.option("--device", default="cuda", metavar="DEVICE", help="cuda or cuda:N.  [default: cuda]")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: one in the cache directory, named after the GPU, where every later run finds it]",
)
def command(device: str, output: Path | None) -> None:
    """Measure sparse and dense products on this machine's GPU, for one to two minutes.

    From the times follows in which form a sparse weight is kept, dense included, and from how many tokens on it is expanded. Without them
    those of an H100 are used. Nothing else should run on the GPU meanwhile.
    """
    from gossamer import _core
    from gossamer.cost_tables import cuda_index, table_path

    index = cuda_index(device)
    if index is None or device == "auto":
        raise click.BadParameter(f"must be cuda or cuda:N, not {device!r}", param_hint="--device")
    gpus = _core.probe_backend("cuda")["devices"]
    if index >= len(gpus):
        raise click.BadParameter(f"this machine has {len(gpus)} GPUs; the first is cuda:0", param_hint="--device")
    path = output or table_path(gpus[index]["name"])
    text = _core.tune_backend("cuda", index, lambda what: click.echo(f"Measuring {what} ...", err=True))
    _replace(path, text)
    click.echo(f"Wrote {path}")


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
