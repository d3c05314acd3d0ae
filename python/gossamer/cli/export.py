"""gossamer export."""

from __future__ import annotations

from pathlib import Path

import click

from gossamer.cli.progress import bar

__all__ = ["command"]

EXAMPLES = """\b
Examples:
  gossamer export models/smollm2-40 exported/smollm2-40
  python -c "from transformers import AutoModelForCausalLM; AutoModelForCausalLM.from_pretrained('exported/smollm2-40')"
"""


@click.command(name="export", epilog=EXAMPLES, context_settings={"show_default": True})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace the export that is at DESTINATION, once the new one is complete.")
@click.option("--resume/--no-resume", default=True, help="Go on with an interrupted export of the same model.")
def command(model: Path, destination: Path, overwrite: bool, resume: bool) -> None:
    """Write MODEL as plain dense Hugging Face safetensors at DESTINATION."""
    from gossamer.checkpoint.export import export_model

    with bar("Exporting") as progress:
        files = export_model(model, destination, overwrite=overwrite, resume=resume, progress=progress)
    size = sum(path.stat().st_size for path in files)
    click.echo(f"{destination}: {len(files)} files, {size / 1e6:,.1f} MB")
