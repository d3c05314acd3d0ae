"""`gossamer prune`."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from gossamer.checkpoint import ModelReader, is_model_directory

__all__ = ["command"]

EXAMPLES = """\b
Examples:
  gossamer prune models/smollm2 models/smollm2-40 --sparsity 0.4
  gossamer prune models/smollm2 models/smollm2 --sparsity 0.3,0.4,0.5
  gossamer prune models/llama models/llama-50 --sparsity 0.5 --calibration book.txt --calibration chats.jsonl
  gossamer prune hf/llama models/llama-mag50 --sparsity 0.5 --method magnitude

\b
With several sparsities, OUT gets the percentage appended: the second example makes models/smollm2-30, -40 and -50.
A calibration file is UTF-8 text, or .jsonl with one {"messages": [...]} per line, rendered with the model's chat
template. An interrupted run resumes when it is started again.
"""


class Sparsities(click.ParamType):
    """One fraction, or several separated by commas."""

    name = "fraction[,fraction…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            fractions = tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a fraction such as 0.5, nor several such as 0.3,0.4,0.5", param, ctx)
        for fraction in fractions:
            if not 0 < fraction < 1:
                self.fail(f"{fraction:g} is not between 0 and 1; the fraction of weights to drop, 0.5 for half of them", param, ctx)
        if len(set(fractions)) != len(fractions):
            self.fail(f"{value!r} names a fraction twice", param, ctx)
        return fractions


@click.command(epilog=EXAMPLES)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--sparsity", type=Sparsities(), required=True, help="Fraction of every projection's weights to drop.")
@click.option(
    "--method",
    type=click.Choice(["auto", "alps", "sparsegpt", "wanda", "magnitude"]),
    default="auto",
    help="From best to fastest; auto is alps that also undoes part of what pruning did to the layers before.",
)
@click.option(
    "--calibration",
    "files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Text to calibrate with; may be repeated, every file counts the same.  [default: built-in prose, technical prose, chat and code]",
)
@click.option("--calibration-tokens", type=click.IntRange(min=16), default=32768, help="At most how many tokens to calibrate with.")
@click.option("--calibration-length", type=click.IntRange(min=16), default=512, help="Tokens per calibration sequence.")
@click.option("--num-threads", type=click.IntRange(min=1), default=None, help="Threads that run the model.  [default: all cores]")
@click.option("--overwrite", is_flag=True, help="Replace models that are there already.")
@click.option("--allow-nonfinite", is_flag=True, help="Keep NaN and infinite weights instead of refusing them.")
def command(
    model: Path,
    out: Path,
    sparsity: tuple[float, ...],
    method: str,
    files: tuple[Path, ...],
    calibration_tokens: int,
    calibration_length: int,
    num_threads: int | None,
    overwrite: bool,
    allow_nonfinite: bool,
) -> None:
    """Prune MODEL in one shot, without retraining, into the new directory OUT.

    MODEL is a directory made by `gossamer convert`, or a Hugging Face directory or GGUF file, which is converted first. The projections of
    attention and MLP are pruned, layer by layer; embeddings, the head and norms stay as they are.
    """
    from gossamer.prune import CalibrationSet, prune

    with ExitStack() as stack:
        source = model if is_model_directory(model) else _converted(model, out, stack, allow_nonfinite)
        calibration = None
        if method != "magnitude":
            with ModelReader(source) as reader:
                side_files = reader.side_files()
            texts = files or _builtin_texts()
            calibration = CalibrationSet.from_files(texts, side_files, num_tokens=calibration_tokens, length=calibration_length)
            click.echo(f"Calibrating with {calibration.num_tokens:,} tokens of {', '.join(f.name for f in texts)}.", err=True)
        elif files:
            raise click.UsageError("--calibration is of no use with --method magnitude; leave one of them out.")
        reports = prune(
            source,
            outputs(out, sparsity),
            method=method,
            calibration=calibration,
            overwrite=overwrite,
            allow_nonfinite=allow_nonfinite,
            runtime_options={"num_threads": num_threads},
            progress=stack.enter_context(Bars()),
        )
    for report in reports:
        megabytes = sum(f.stat().st_size for f in report.directory.iterdir()) / 1e6
        share = f"{report.actual_sparsity:.2%} of {report.weights:,} projection weights are zero"
        click.echo(f"{report.directory}: {share}, {megabytes:,.1f} MB on disk")


def outputs(out: Path, sparsities: tuple[float, ...]) -> dict[float, Path]:
    """Where each sparsity goes: OUT itself, or OUT-30, OUT-40, … when there are several."""
    if len(sparsities) == 1:
        return {sparsities[0]: out}
    return {s: out.with_name(f"{out.name}-{round(s * 100, 6):g}") for s in sparsities}


def _builtin_texts() -> tuple[Path, ...]:
    from gossamer import texts

    return texts.CALIBRATION


def _converted(source: Path, out: Path, stack: ExitStack, allow_nonfinite: bool) -> Path:
    """Convert a foreign checkpoint into a temporary model directory beside OUT."""
    from gossamer.convert import ConvertOptions, convert

    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".gossamer-prune-")))
    click.echo(f"Converting {source} first.", err=True)
    destination = scratch / source.resolve().name
    convert(source, destination, ConvertOptions(allow_nonfinite=allow_nonfinite))
    return destination


class Bars:
    """A progress bar per phase, on a terminal only."""

    _UNITS = {"prune": "step", "write": "tensor"}  # noqa: RUF012

    def __init__(self) -> None:
        self._bar: Any = None
        self._phase = ""

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase != self._phase:
            self.close()
            self._phase = phase
            self._bar = tqdm(total=total, desc=phase, unit=self._UNITS.get(phase, "it"), disable=None, dynamic_ncols=True)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            self._phase = ""

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
