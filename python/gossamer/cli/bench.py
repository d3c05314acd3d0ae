"""`gossamer bench`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

if TYPE_CHECKING:
    from gossamer.bench.measure import Row

__all__ = ["command"]

EXAMPLES = """\b
Examples:
  gossamer bench models/smollm2
  gossamer bench models/smollm2 models/smollm2-50 --batch 1,8 --tokens 512/64
  gossamer bench models/smollm2 --tokens 128/128,1024/32 --format json --output results.json
  gossamer bench models/smollm2 models/smollm2-50 --fresh-process

\b
Prompts are random token ids; every request generates exactly the tokens asked for, greedily. Speeds are means over
the repeats ± their standard deviation, after one run that does not count.
  prefill   prompt tokens ÷ time until every request has its first token
  decode    tokens after that ÷ their time
  TTFT      time to first token; ITL: time between tokens, median and 95th percentile
  weights   resident bytes; GB/s: those bytes × decode steps per second
  peak RSS  the process's high-water mark; a row's own with --fresh-process
"""


class Integers(click.ParamType):
    """One positive integer, or several separated by commas."""

    name = "n[,n…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in value.split(",")):
            self.fail(f"{value!r} is not a positive integer, nor several such as 1,8", param, ctx)
        return tuple(int(part) for part in value.split(","))


class PromptAndNew(click.ParamType):
    """prompt/new, or several separated by commas."""

    name = "prompt/new[,…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[tuple[int, int], ...]:
        if isinstance(value, tuple):
            return value
        pairs = []
        for part in value.split(","):
            numbers = part.split("/")
            if len(numbers) != 2 or not all(n.isascii() and n.isdigit() and int(n) > 0 for n in numbers):
                self.fail(f"{part!r} is not two positive integers such as 128/64 (prompt tokens/new tokens)", param, ctx)
            pairs.append((int(numbers[0]), int(numbers[1])))
        return tuple(pairs)


@click.command(epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="MODEL...")
@click.option("--batch", "batches", type=Integers(), default="1", help="Requests at once.")
@click.option("--tokens", type=PromptAndNew(), default="128/64", help="Prompt tokens and new tokens of each request.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, help="Measured runs per row.")
@click.option("--fresh-process", is_flag=True, help="Measure every row in a new process.")
@click.option("--num-threads", type=click.IntRange(min=1), default=None, help="Threads that run the model.  [default: all cores]")
@click.option("--device", default="auto", help="auto, cpu, cuda, or reference.")
@click.option("--format", "form", type=click.Choice(["md", "csv", "json"]), default="md", help="How to print the table.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Write it to a file, too.")
def command(
    models: tuple[Path, ...],
    batches: tuple[int, ...],
    tokens: tuple[tuple[int, int], ...],
    repeats: int,
    fresh_process: bool,
    num_threads: int | None,
    device: str,
    form: str,
    output: Path | None,
) -> None:
    """Measure prefill and decode speed, latency and memory of each MODEL."""
    from gossamer.bench.fresh import measure_fresh
    from gossamer.bench.measure import Shape, measure_model

    shapes = [Shape(batch, prompt, new) for prompt, new in tokens for batch in batches]
    options = {"num_threads": num_threads, "device": device}
    rows: list[Row] = []
    runs = repeats + 1
    with tqdm(total=len(models) * len(shapes) * runs, unit="run", disable=None, leave=False) as bar:
        for model in models:
            bar.set_description(model.name)
            before = bar.n
            if fresh_process:
                for shape in shapes:
                    rows.append(measure_fresh(model, shape, repeats=repeats, runtime_options=options))
                    bar.update(runs)
            else:
                rows += measure_model(
                    model,
                    shapes,
                    repeats=repeats,
                    runtime_options=options,
                    progress=lambda done, before=before: bar.update(before + done - bar.n),  # type: ignore[misc]
                )
    text = render(rows, form)
    click.echo(text)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")


def render(rows: list[Row], form: str) -> str:
    """The rows as "md", "csv" or "json"; the last two have every field, unrounded."""
    from gossamer.bench.context import context
    from gossamer.bench.table import comma_separated, markdown

    if form == "csv":
        return comma_separated([row.as_dict() for row in rows]).rstrip("\n")
    if form == "json":
        plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.as_dict().items()} for row in rows]
        return json.dumps({"context": context(), "rows": plain}, indent=2)
    return markdown([_line(row) for row in rows])


def _line(row: Row) -> dict[str, str]:
    return {
        "model": row.model,
        "sparsity": f"{row.sparsity:.0%}",
        "batch": str(row.batch),
        "prompt/new": f"{row.prompt_tokens}/{row.new_tokens}",
        "prefill tok/s": f"{row.prefill_tok_s:,.0f} ± {row.prefill_tok_s_std:,.0f}",
        "decode tok/s": f"{row.decode_tok_s:,.1f} ± {row.decode_tok_s_std:,.1f}",
        "TTFT ms": f"{row.ttft_ms:,.0f}",
        "ITL p50/p95 ms": f"{row.itl_p50_ms:.1f}/{row.itl_p95_ms:.1f}",
        "weights MB": f"{row.weight_bytes / 1e6:,.1f}",
        "GB/s": f"{row.weight_gb_s:.1f}",
        "peak RSS MB": f"{row.peak_rss_mb:,.0f}",
    }
