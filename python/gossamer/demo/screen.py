"""How the demo looks on a terminal; plain text elsewhere."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
from tqdm import tqdm

from gossamer.bench.measure import Row
from gossamer.demo.measurements import PROMPTS, Perplexities
from gossamer.evaluate import compare, pooled

__all__ = ["bar", "closing", "conversation", "done", "headline", "label", "step", "table", "title"]

_INDENT = "     "


def label(sparsity: float) -> str:
    return "dense" if sparsity == 0 else f"{sparsity:.0%}"


def title(name: str, what: str) -> None:
    click.echo()
    click.echo(f"  {click.style(name, bold=True)} · {what}")


def step(number: int, name: str, what: str) -> None:
    click.echo()
    click.echo(f"  {click.style(str(number), fg='cyan', bold=True)}  {click.style(name, bold=True)}  {click.style(what, dim=True)}")


def done(what: str) -> None:
    click.echo(f"{_INDENT}{click.style('✓', fg='green')} {what}")


@contextmanager
def bar(name: str) -> Iterator[Callable[..., None]]:
    """Yield a function of (done, total[, phase]) that draws a bar on a terminal, and leaves nothing behind."""
    shape = _INDENT + "{desc:<10} {percentage:3.0f} % {bar:32} {elapsed}<{remaining}"
    shown: tqdm[None] = tqdm(desc=name, total=1, disable=None, leave=False, bar_format=shape)

    current = name

    def update(done: int, total: int, phase: str = "") -> None:
        nonlocal current
        if phase and phase != current:
            current = phase
            shown.reset()
            shown.set_description_str(phase, refresh=False)
        shown.total = total
        shown.update(done - shown.n)

    with shown:
        yield update


def table(rows: Mapping[float, Row], perplexities: Mapping[float, Perplexities], on_disk: Mapping[float, int], downloaded: int) -> None:
    """One line per model."""
    columns = ["", "download", "on disk", "weights in RAM", "peak RSS", "perplexity: novel", "technical", "decode", "prefill"]
    units = ["", "MB", "MB", "MB", "MB", "", "", "tok/s", "tok/s"]
    lines = []
    for sparsity, row in rows.items():
        novel, technical = perplexities[sparsity].scores
        lines.append(
            [
                label(sparsity),
                f"{downloaded / 1e6:.1f}",
                f"{on_disk[sparsity] / 1e6:.1f}",
                f"{row.weight_bytes / 1e6:.1f}",
                f"{row.peak_rss_mb:.0f}",
                f"{novel.perplexity:.2f} ± {novel.perplexity_se:.2f}",
                f"{technical.perplexity:.2f} ± {technical.perplexity_se:.2f}",
                f"{row.decode_tok_s:.0f} ± {row.decode_tok_s_std:.0f}",
                f"{row.prefill_tok_s:.0f} ± {row.prefill_tok_s_std:.0f}",
            ]
        )
    widths = [max(len(line[i]) for line in [columns, units, *lines]) for i in range(len(columns))]

    def render(line: list[str]) -> str:
        return _INDENT + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))

    click.secho(render(columns), bold=True)
    click.secho(render(units), dim=True)
    click.secho(_INDENT + "─" * (sum(widths) + 2 * len(widths) - 2), dim=True)
    for line in lines:
        click.echo(render(line))


def conversation(answers: Mapping[float, list[str]], emphasised: float) -> None:
    """Every prompt with every model's answer."""
    width = min(shutil.get_terminal_size().columns, 110) - 15
    for index, prompt in enumerate(PROMPTS):
        click.echo()
        click.echo(f"{_INDENT}{click.style('»', fg='cyan', bold=True)} {click.style(prompt, bold=True)}")
        for sparsity, texts in answers.items():
            wrapped = textwrap.wrap(" ".join(texts[index].split()), width) or ["(nothing)"]
            name = label(sparsity).rjust(7)
            click.echo(
                f"{_INDENT}{click.style(name, fg='green' if sparsity == emphasised else None, bold=sparsity == emphasised)}  {wrapped[0]}"
            )
            for line in wrapped[1:]:
                click.echo(f"{_INDENT}{' ' * 9}{line}")


def headline(sparsity: float, rows: Mapping[float, Row], perplexities: Mapping[float, Perplexities]) -> None:
    """What pruning to the headline's sparsity did, against dense, in one sentence of measured numbers."""
    smaller = 1 - rows[sparsity].weight_bytes / rows[0.0].weight_bytes
    pruned, dense = rows[sparsity], rows[0.0]
    faster = pruned.decode_tok_s / dense.decode_tok_s
    spread = faster * math.hypot(pruned.decode_tok_s_std / pruned.decode_tok_s, dense.decode_tok_s_std / dense.decode_tok_s)
    quality = compare(pooled(perplexities[sparsity].scores), pooled(perplexities[0.0].scores))
    click.echo()
    ratio = f"{quality.perplexity_ratio:.3f} ± {quality.perplexity_ratio_se:.3f}"
    click.echo(
        f"  {click.style(f'At {sparsity:.0%}', bold=True)}: weights {smaller:.0%} smaller in memory, "
        f"decoding at {faster:.2f} ± {spread:.2f} times the speed of dense, perplexity × {ratio}."
    )


def closing(directory: Path, model: Path, seconds: float) -> None:
    lines = (
        "The download is a 4-bit file; Gossamer expands it to 16 bits, and that is what dense means here. Pruned models keep",
        f"16 bits per remaining weight and one bit per position. Everything is in {directory}; a second run reuses it.",
        f"This took {seconds:.0f} s.",
    )
    click.echo()
    for line in lines:
        click.secho(f"  {line}", dim=True)
    click.echo(f"\n  Talk to it:  {click.style(f'.venv/bin/gossamer chat {model}', fg='cyan')}\n")
