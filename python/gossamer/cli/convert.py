"""gossamer convert."""

from __future__ import annotations

import time
from pathlib import Path

import click

from gossamer.checkpoint import is_model_directory
from gossamer.cli.progress import bar

__all__ = ["command"]

VALUES = ("int8", "int4", "fp8")

EXAMPLES = """\b
Examples:
  gossamer convert ~/models/Llama-3.2-1B models/llama-1b
  gossamer convert SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2
  gossamer convert pruned-model models/pruned --dtype bf16 --overwrite
  gossamer convert ~/models/Llama-3.2-1B models/llama-1b-int8 --values int8
  gossamer convert models/llama-1b-50 models/llama-1b-50-int4 --values int4

A Hugging Face directory keeps its dtype. Linears with a quarter or more of zeros are stored as bit mask and values. Quantised GGUF is
expanded, to f16 unless told otherwise. With --values the linears are rounded to 8 or 4 bits with scales; SOURCE may then also be a model
directory, pruned or not. An interrupted conversion goes on where it stopped when the command is run again.
"""


@click.command(name="convert", epilog=EXAMPLES, context_settings={"show_default": True})
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(["auto", "f32", "f16", "bf16"]), default="auto", help="Stored dtype; auto: the source's own.")
@click.option(
    "--bitmap-threshold", type=click.FloatRange(min=0), default=0.25, help="Store linears with at least this share of zeros sparse."
)
@click.option("--bitmap-head", is_flag=True, help="Treat the output head like a linear.")
@click.option(
    "--values",
    type=click.Choice(["float", *VALUES]),
    default="float",
    help="Round the linears: int8 and fp8 with a scale a row, int4 with a scale for every --scale-group columns.",
)
@click.option("--scale-group", type=click.IntRange(min=64), default=64, help="Columns that share a scale in int4; a multiple of 64.")
@click.option("--allow-nonfinite", is_flag=True, help="Keep NaN and infinite weights instead of refusing them.")
@click.option("--tokenizer/--no-tokenizer", default=True, help="Build the tokenizer's files from a GGUF file.")
@click.option("--overwrite", is_flag=True, help="Replace the model that is at DESTINATION, once the new one is complete.")
@click.option("--resume/--no-resume", default=True, help="Go on with an interrupted conversion of the same source.")
def command(
    source: Path,
    destination: Path,
    dtype: str,
    bitmap_threshold: float,
    bitmap_head: bool,
    values: str,
    scale_group: int,
    allow_nonfinite: bool,
    tokenizer: bool,
    overwrite: bool,
    resume: bool,
) -> None:
    """Make a model directory at DESTINATION from SOURCE, a Hugging Face directory or a GGUF file (with --values also a model directory)."""
    from gossamer.convert import ConvertOptions, convert, quantize_model

    if scale_group % 64:
        raise click.BadParameter(f"{scale_group} is not a multiple of 64", param_hint="--scale-group")
    rounded = None if values == "float" else values
    options = ConvertOptions(dtype, bitmap_threshold, bitmap_head, allow_nonfinite, tokenizer, rounded, scale_group)
    start = time.monotonic()
    with bar("Converting") as progress:
        if rounded is not None and is_model_directory(source):
            manifest = quantize_model(source, destination, options.quantizer, overwrite=overwrite, resume=resume, progress=progress)
        else:
            manifest = convert(source, destination, options, overwrite=overwrite, resume=resume, progress=progress)
    if "tokenizer.json" not in manifest.files:
        click.echo("Note: the source has no tokenizer.json, so the model works with token ids only, not with text.", err=True)
    sparse = sum(record.encoding == "bitmap" for record in manifest.tensors.values())
    size = sum(record.bytes for record in manifest.files.values())
    click.echo(
        f"{destination}: {manifest.architecture}, {len(manifest.tensors)} tensors ({sparse} sparse), "
        f"{size / 1e6:,.1f} MB, in {time.monotonic() - start:.1f} s"
    )
