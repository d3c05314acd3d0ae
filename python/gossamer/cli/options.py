"""Options that commands which run a model share, and loading with a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from gossamer import Runtime

__all__ = ["load_runtime", "runtime_options", "sampling_keywords", "sampling_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_RUNTIME = [
    click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:0 or reference (plain loops, slow)."),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        help="Of the activations; auto is float32 on CPUs.",
    ),
    click.option("--num-threads", type=click.IntRange(min=0), default=0, help="CPU threads; 0 uses all cores."),
    click.option("--max-model-len", type=click.IntRange(min=0), default=0, help="Most tokens of prompt and output; 0 takes the model's."),
    click.option(
        "--verify", type=click.Choice(["full", "header"]), default="full", help="Check the digests of all data, or of the small files only."
    ),
]
_SAMPLING = [
    click.option("-n", "--max-tokens", type=click.IntRange(min=1), help="Most tokens to generate.  [default: what is left of the context]"),
    click.option("-t", "--temperature", type=click.FloatRange(min=0), help="0 is greedy.  [default: the model's, else 1]"),
    click.option(
        "--top-k", type=click.IntRange(min=-1), help="Draw from the k most likely tokens; 0 = all.  [default: the model's, else 0]"
    ),
    click.option("--top-p", type=float, help="Draw from the fewest tokens of this total probability.  [default: the model's, else 1]"),
    click.option("--min-p", type=float, help="Drop tokens below this share of the most likely one.  [default: the model's, else 0]"),
    click.option("--repetition-penalty", type=float, help="Above 1 discourages repetition.  [default: the model's, else 1]"),
    click.option("--seed", type=click.IntRange(min=0), help="The same seed gives the same text.  [default: 0]"),
    click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be repeated."),
]
_SAMPLING_NAMES = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop")


def runtime_options(command: Command) -> Command:
    """Add the options that `load_runtime` takes."""
    return _add(command, _RUNTIME)


def sampling_options(command: Command) -> Command:
    """Add the options that `sampling_keywords` takes."""
    return _add(command, _SAMPLING)


def sampling_keywords(options: dict[str, Any]) -> dict[str, Any]:
    """Take the sampling options out of a command's options: those that were given, as keywords of `Runtime.stream`."""
    given = {name: options.pop(name) for name in _SAMPLING_NAMES}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value not in (None, ())}


def load_runtime(model: Path, options: dict[str, Any]) -> Runtime:
    """Load a model, with a progress bar on a terminal when it takes more than a second."""
    from tqdm import tqdm

    from gossamer import Runtime

    with tqdm(
        desc=f"Loading {model.name}", unit="B", unit_scale=True, leave=False, delay=1, disable=None if sys.stderr.isatty() else True
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        return Runtime(model, **options, progress=progress)


def _add(command: Command, options: Sequence[Callable[[Any], Any]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
