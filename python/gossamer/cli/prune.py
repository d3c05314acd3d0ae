"""`gossamer prune`."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from gossamer.checkpoint import ModelReader, is_model_directory
from gossamer.cli.amounts import Pattern, Size, Sparsities

if TYPE_CHECKING:
    from gossamer.quantize import Quantizer

__all__ = ["command"]

EXAMPLES = """\b
Examples:
  gossamer prune models/smollm2 models/smollm2-40 --sparsity 0.4
  gossamer prune models/smollm2 models/smollm2 --sparsity 0.3,0.4,0.5
  gossamer prune models/llama models/llama-50 --sparsity 0.5 --calibration book.txt --calibration chats.jsonl
  gossamer prune hf/llama models/llama-mag50 --sparsity 0.5 --method magnitude
  gossamer prune models/llama models/llama-small --target-bytes 9GB --keep '*.layers.0.*'
  gossamer prune models/llama models/llama-fast --target-speedup 1.5 --target-device h100
  gossamer prune models/llama models/llama-24 --pattern 2:4

\b
With several sparsities, OUT gets the percentage appended: the second example makes models/smollm2-30, -40 and -50.
A calibration file is UTF-8 text, or .jsonl with one {"messages": [...]} per line, rendered with the model's chat
template. An interrupted run resumes when it is started again.
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--sparsity", type=Sparsities(), help="Fraction of the projections' weights to drop.")
@click.option("--pattern", type=Pattern(), help="Keep N of every M weights of a row instead, 2:4 for example.")
@click.option("--target-bytes", type=Size(), help="Or as sparse as makes the model so small on disk.")
@click.option(
    "--target-speedup",
    type=click.FloatRange(min=1, min_open=True),
    help="Or as sparse as makes the weight products of a decode step so much faster, by the cost model of --target-device.",
)
@click.option(
    "--target-device",
    type=click.Choice(["auto", "cpu", "h100"]),
    default="auto",
    help="cpu: time goes with the bytes of the weights; h100: the kernels' measured times, 8 tokens a step; auto: what this machine has.",
)
@click.option(
    "--method",
    type=click.Choice(["auto", "alps", "sparsegpt", "wanda", "magnitude"]),
    default="auto",
    help="From best to fastest; auto is alps that also undoes part of what pruning and rounding did to the layers before.",
)
@click.option(
    "--allocation",
    type=click.Choice(["auto", "uniform", "sensitivity"]),
    default="auto",
    help="The same sparsity everywhere, or each layer's attention and MLP as much as they bear; auto: the latter with --method auto.",
)
@click.option("--keep", multiple=True, metavar="PATTERN", help="Leave projections called like this as they are; may be repeated.")
@click.option(
    "--calibration",
    "files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Text to calibrate with; may be repeated, every file counts the same.  [default: built-in prose, technical prose, chat and code]",
)
@click.option("--calibration-tokens", type=click.IntRange(min=16), default=32768, help="At most how many tokens to calibrate with.")
@click.option("--calibration-length", type=click.IntRange(min=16), default=512, help="Tokens per calibration sequence.")
@click.option(
    "--values",
    type=click.Choice(["float", "int8", "int4", "fp8"]),
    default="float",
    help="Round the linears, pruned or kept, as `gossamer convert --values` does.",
)
@click.option("--scale-group", type=click.IntRange(min=64), default=64, help="Columns that share a scale in int4; a multiple of 64.")
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    help="Then measure what came out and write a page with plots into this directory (takes a few minutes; needs matplotlib).",
)
@click.option(
    "--device",
    default="auto",
    metavar="DEVICE",
    help="What runs the layers, and with gossamer[cuda] the linear algebra: auto, cpu, cuda, cuda:0 or reference.",
)
@click.option("--num-threads", type=click.IntRange(min=1), default=None, help="Threads that run the model.  [default: all cores]")
@click.option("--overwrite", is_flag=True, help="Replace models that are there already.")
@click.option("--allow-nonfinite", is_flag=True, help="Keep NaN and infinite weights instead of refusing them.")
def command(model: Path, out: Path, **options: Any) -> None:
    """Prune MODEL in one shot, without retraining, into the new directory OUT.

    MODEL is a directory made by `gossamer convert`, or a Hugging Face directory or GGUF file, which is converted first. The projections of
    attention and MLP are pruned, layer by layer; embeddings, the head and norms stay as they are.
    """
    from gossamer.checkpoint.scaled import SCALE_GROUP_UNIT
    from gossamer.prune import prune
    from gossamer.quantize import Quantizer

    amounts = [name for name in ("sparsity", "pattern", "target_bytes", "target_speedup") if options[name] is not None]
    if len(amounts) != 1:
        raise click.UsageError("Give one of --sparsity, --pattern, --target-bytes and --target-speedup: how much to prune.")
    if options["scale_group"] % SCALE_GROUP_UNIT:
        raise click.BadParameter(f"{options['scale_group']} is not a multiple of {SCALE_GROUP_UNIT}", param_hint="--scale-group")
    quantizer = None if options["values"] == "float" else Quantizer(options["values"], options["scale_group"])
    with ExitStack() as stack:
        source = model if is_model_directory(model) else _converted(model, out, stack, options["allow_nonfinite"])
        given = {name: options[name] for name in (*amounts, "target_device", "keep")}
        destinations = outputs(out, _sparsities(source, quantizer=quantizer, **given))
        reports = prune(
            source,
            destinations,
            method=options["method"],
            calibration=_calibration(source, options),
            pattern=options["pattern"],
            keep=options["keep"],
            allocation=options["allocation"],
            quantizer=quantizer,
            overwrite=options["overwrite"],
            allow_nonfinite=options["allow_nonfinite"],
            runtime_options={"device": options["device"], "num_threads": options["num_threads"]},
            progress=stack.enter_context(Bars()),
        )
        for report in reports:
            megabytes = sum(f.stat().st_size for f in report.directory.iterdir()) / 1e6
            share = f"{report.actual_sparsity:.2%} of {report.weights:,} projection weights are zero"
            click.echo(f"{report.directory}: {share}, {megabytes:,.1f} MB on disk")
        if options["report"] is not None:
            _write_report(options["report"], source, destinations, options["num_threads"])


def _calibration(source: Path, options: dict[str, Any]) -> Any:
    """The calibration set of the options; None where the method needs none."""
    from gossamer.prune import CalibrationSet

    if options["method"] == "magnitude":
        if options["files"]:
            raise click.UsageError("--calibration is of no use with --method magnitude; leave one of them out.")
        return None
    with ModelReader(source) as reader:
        side_files = reader.side_files()
    texts = options["files"] or _builtin_texts()
    calibration = CalibrationSet.from_files(
        texts, side_files, num_tokens=options["calibration_tokens"], length=options["calibration_length"]
    )
    click.echo(f"Calibrating with {calibration.num_tokens:,} tokens of {', '.join(f.name for f in texts)}.", err=True)
    return calibration


def _sparsities(
    source: Path,
    *,
    target_device: str,
    keep: tuple[str, ...],
    quantizer: Quantizer | None,
    sparsity: tuple[float, ...] | None = None,
    pattern: tuple[int, int] | None = None,
    target_bytes: int | None = None,
    target_speedup: float | None = None,
) -> tuple[float, ...]:
    """What the one amount that is given comes to."""
    from gossamer.prune.budget import rounded, sparsity_for_bytes
    from gossamer.prune.select import select
    from gossamer.prune.speed import device_here, sparsity_for

    if sparsity is not None:
        return sparsity
    if pattern is not None:
        return (pattern[0] / pattern[1],)
    with ModelReader(source) as reader:
        records = {name: reader.record(name) for name in reader.names()}
        shapes = {name: record.shape for name, record in records.items()}
        targets = select(shapes, keep)
        if target_bytes is not None:
            if quantizer is not None:
                records = rounded(records, reader.manifest.architecture, quantizer)
            found = sparsity_for_bytes(records, targets, reader.side_files(), target_bytes, rounds=quantizer is not None)
        else:
            assert target_speedup is not None
            device = device_here() if target_device == "auto" else target_device
            head = (reader.config["vocab_size"], reader.config["hidden_size"])
            found = sparsity_for(target_speedup, device, shapes, targets, head)
    click.echo(f"That takes a sparsity of {found:.2%}.", err=True)
    return (found,)


def _write_report(directory: Path, dense: Path, pruned: dict[float, Path], num_threads: int | None) -> None:
    from gossamer.prune.report import write_report

    with tqdm(total=1, desc="report", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        page = write_report(directory, dense, pruned, num_threads=num_threads, progress=progress)
    click.echo(f"{page}: the report")


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

    _UNITS = {"allocate": "layer", "prune": "step", "write": "tensor"}  # noqa: RUF012

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
