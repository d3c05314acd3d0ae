"""`gossamer bench`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

if TYPE_CHECKING:
    from gossamer.bench.measure import Row, Shape

__all__ = ["command"]

_TORCH_DTYPES = {"f16": "float16", "bf16": "bfloat16", "f32": "float32"}

EXAMPLES = """\b
Examples:
  gossamer bench models/smollm2
  gossamer bench models/smollm2 models/smollm2-50 --batch 1,8 --tokens 512/64
  gossamer bench models/smollm2 --tokens 128/128,1024/32 --format json --output results.json
  gossamer bench models/smollm2 models/smollm2-50 --fresh-process
  gossamer bench --config benchmarks/configs/llama3-8b.json --sparsity 0,0.6 --device cuda --batch 1,8,32 --tokens 64/128
  gossamer bench --config llama3-8b.json --sparsity 0,0.6 --device cuda --batch 8 --stages --peer "transformers compiled"

\b
Prompts are random token ids; every request generates exactly the tokens asked for, greedily. Speeds are means over
the repeats ± their standard deviation, after one run that does not count.
  prefill   prompt tokens ÷ time until every request has its first token
  decode    tokens after that ÷ their time
  step      milliseconds of a decode step, and what reading its weights and KV cache once takes at the rate that
            the device's memory was measured to be read at
  TTFT      time to first token; ITL: time between tokens, median and 95th percentile
  weights   resident bytes; GB/s: those bytes × decode steps per second
  peak      the device's memory that is held; on a CPU the process's high-water mark, a row's own with --fresh-process
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


class Shares(click.ParamType):
    """One sparsity in [0, 1), or several separated by commas."""

    name = "s[,…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            shares = tuple(float(part) for part in value.split(","))
        except ValueError:
            shares = (math.nan,)
        if not all(0 <= share < 1 for share in shares):
            self.fail(f"{value!r} is not a number in [0, 1), nor several such as 0,0.6", param, ctx)
        return shares


@dataclass(frozen=True)
class Subject:
    """What is measured: a model directory, or a configuration with random weights."""

    path: Path
    options: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.path.name} {self.options['sparsity']:.0%}" if "sparsity" in self.options else self.path.name


@click.command(epilog=EXAMPLES)
@click.argument("models", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="MODEL...")
@click.option(
    "--config",
    "configs",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A config.json: random weights.",
)
@click.option("--sparsity", "sparsities", type=Shares(), default="0", help="Of the layers of models with random weights.")
@click.option("--batch", "batches", type=Integers(), default="1", help="Requests at once.")
@click.option("--tokens", type=PromptAndNew(), default="128/64", help="Prompt tokens and new tokens of each request.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, help="Measured runs per row.")
@click.option("--fresh-process", is_flag=True, help="Measure every row in a new process.")
@click.option("--num-threads", type=click.IntRange(min=1), default=None, help="Threads that run the model.  [default: all cores]")
@click.option("--device", default="auto", help="auto, cpu, cuda, or reference.")
@click.option("--dtype", default="auto", help="Of activations: auto, float32, bfloat16 or float16.")
@click.option("--candidates", default="", metavar="NAME[,…]", help="Code paths that are not the default yet.")
@click.option("--stages", is_flag=True, help="Then say where a step's time goes (GPU; needs torch).")
@click.option(
    "--peer", type=click.Choice(["transformers compiled", "transformers eager"]), default=None, help="Measure it, too (needs torch)."
)
@click.option("--format", "form", type=click.Choice(["md", "csv", "json"]), default="md", help="How to print the table.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Write it to a file, too.")
@click.option("--results", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Add the rows to a JSON file of results.")
def command(models: tuple[Path, ...], configs: tuple[Path, ...], **given: Any) -> None:
    """Measure prefill and decode speed, latency and memory of each MODEL, or of shapes with random weights."""
    from gossamer import _core
    from gossamer.bench.measure import Shape
    from gossamer.bench.results import add_rows

    if not models and not configs:
        raise click.UsageError("name a model directory, or a configuration with --config.")
    if given["peer"] and models:
        raise click.UsageError("--peer measures shapes with random weights: give --config, and no MODEL.")
    candidates = [name for name in given["candidates"].split(",") if name]
    options = {key: given[key] for key in ("num_threads", "device", "dtype")} | {"candidates": candidates}
    subjects = [Subject(model, options) for model in models]
    for config in configs:
        subjects += [Subject(config, options | {"weights": "random", "sparsity": share}) for share in given["sparsities"]]
    shapes = [Shape(batch, prompt, new) for prompt, new in given["tokens"] for batch in given["batches"]]
    read_rate = _core.measure_read_rate(given["device"], given["num_threads"] or 0)
    rows = measure_subjects(subjects, shapes, read_rate, given["repeats"], given["fresh_process"])
    if given["peer"]:
        rows = with_peer(rows, given["peer"], {config.stem: config for config in configs})
    text = render(rows, given["form"])
    click.echo(text)
    if given["output"] is not None:
        given["output"].write_text(text + "\n", encoding="utf-8")
    if given["results"] is not None:
        add_rows(given["results"], [plain(row) for row in rows])
    if given["stages"]:
        for subject in subjects:
            echo_stages(subject, shapes)


def measure_subjects(subjects: list[Subject], shapes: list[Shape], read_rate: float, repeats: int, fresh_process: bool) -> list[Row]:
    """All rows, with a bar of the runs on a terminal."""
    from gossamer.bench.fresh import measure_fresh
    from gossamer.bench.measure import measure_model

    rows: list[Row] = []
    runs = repeats + 1
    with tqdm(total=len(subjects) * len(shapes) * runs, unit="run", disable=None, leave=False) as bar:
        for subject in subjects:
            bar.set_description(subject.title)
            before = bar.n
            if fresh_process:
                for shape in shapes:
                    rows.append(measure_fresh(subject.path, shape, repeats=repeats, runtime_options=subject.options, read_rate=read_rate))
                    bar.update(runs)
            else:
                rows += measure_model(
                    subject.path,
                    shapes,
                    repeats=repeats,
                    runtime_options=subject.options,
                    progress=lambda done, before=before: bar.update(before + done - bar.n),  # type: ignore[misc]
                    read_rate=read_rate,
                )
    return rows


def with_peer(rows: list[Row], peer: str, configs: dict[str, Path]) -> list[Row]:
    """The rows with the peer's speed: once for every shape, since it knows dense weights only."""
    from gossamer.bench.measure import Shape
    from gossamer.bench.peers import PeerError, measure_peer

    speeds: dict[tuple[str, Shape], float] = {}
    done = []
    for row in rows:
        key = row.model, Shape(row.batch, row.prompt_tokens, row.new_tokens)
        if key not in speeds:
            device, dtype = ("cpu", "float32") if row.device.startswith("cpu") else ("cuda", _TORCH_DTYPES[row.dtype])
            try:
                speeds[key] = measure_peer(peer, configs[row.model], key[1], device=device, dtype=dtype)
            except PeerError as error:
                click.echo(f"{row.model}: {error}", err=True)
                speeds[key] = math.nan
        done.append(replace(row, peer=peer, peer_decode_tok_s=speeds[key]))
    return done


def echo_stages(subject: Subject, shapes: list[Shape]) -> None:
    """Print where the time of a step of each shape goes."""
    from gossamer.bench.measure import runtime_options_for
    from gossamer.bench.stages import profile_steps
    from gossamer.bench.table import markdown
    from gossamer.runtime import Runtime

    with Runtime(subject.path, **(runtime_options_for(shapes) | subject.options)) as runtime:
        for shape in shapes:
            try:
                profile = profile_steps(runtime, shape)
            except (ImportError, RuntimeError, ValueError) as error:
                click.echo(f"{subject.title}: no stages: {error}", err=True)
                continue
            click.echo(
                f"\n{subject.title}, batch {shape.batch}, {shape.prompt_tokens}/{shape.new_tokens}: "
                f"{profile.step_ms:.3f} ms a step, {profile.idle_ms:.3f} idle ({profile.steps} steps)\n"
            )
            lines = [
                {"stage": s.name, "ms": f"{s.ms:.3f}", "share": f"{s.ms / profile.step_ms:.1%}", "launches": f"{s.launches:.0f}"}
                for s in profile.stages
            ]
            click.echo(markdown(lines))


def plain(row: Row) -> dict[str, Any]:
    """A row with what it needs to be repeated, unrounded; what is not known is None."""
    from gossamer.bench.context import context

    fields = row.as_dict() | {key: value for key, value in context().items() if key in ("commit", "command", "date")}
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in fields.items()}


def render(rows: list[Row], form: str) -> str:
    """The rows as "md", "csv" or "json"; the last two have every field, unrounded."""
    from gossamer.bench.context import context
    from gossamer.bench.table import comma_separated, markdown

    if form == "csv":
        return comma_separated([row.as_dict() for row in rows]).rstrip("\n")
    if form == "json":
        return json.dumps({"context": context(), "rows": [plain(row) for row in rows]}, indent=2)
    return markdown([_line(row) for row in rows])


def _line(row: Row) -> dict[str, str]:
    peer = {} if not row.peer else {row.peer: f"{row.peer_decode_tok_s:,.0f} ({row.decode_tok_s / row.peer_decode_tok_s:.2f}×)"}
    return {
        "model": row.model,
        "sparsity": f"{row.sparsity:.0%}",
        "batch": str(row.batch),
        "prompt/new": f"{row.prompt_tokens}/{row.new_tokens}",
        "prefill tok/s": f"{row.prefill_tok_s:,.0f} ± {row.prefill_tok_s_std:,.0f}",
        "decode tok/s": f"{row.decode_tok_s:,.1f} ± {row.decode_tok_s_std:,.1f}",
        "step/roofline ms": f"{row.step_ms:.2f}/{row.roofline_ms:.2f}",
        "TTFT ms": f"{row.ttft_ms:,.0f}",
        "ITL p50/p95 ms": f"{row.itl_p50_ms:.1f}/{row.itl_p95_ms:.1f}",
        "weights MB": f"{row.weight_bytes / 1e6:,.1f}",
        "GB/s": f"{row.weight_gb_s:.1f}",
        "peak MB": f"{1e3 * row.peak_gb:,.0f}",
        **peer,
    }
