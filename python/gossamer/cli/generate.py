"""`gossamer generate`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossamer.cli.options import load_runtime, runtime_options, sampling_keywords, sampling_options

if TYPE_CHECKING:
    from gossamer import Runtime

__all__ = ["command"]

EXAMPLES = """\b
Examples:
  gossamer generate models/smollm2 -p "The capital of France is" -n 32
  gossamer generate models/smollm2 -p "Once upon a time" --temperature 0.8 --seed 7
  gossamer generate models/smollm2 -p "One:" -p "Two:" --stop "\\n"
  echo "Dear reader," | gossamer generate models/smollm2 --echo
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("prompts", nargs=-1)
@click.option("-p", "--prompt", "more_prompts", multiple=True, metavar="TEXT", help="A prompt; may be repeated.  [default: standard input]")
@sampling_options
@click.option("--ignore-eos", is_flag=True, help="Go on after the model's end-of-sequence token.")
@click.option("--echo", is_flag=True, help="Print the prompt before its continuation.")
@runtime_options
def command(model: Path, prompts: tuple[str, ...], more_prompts: tuple[str, ...], echo: bool, ignore_eos: bool, **options: Any) -> None:
    """Continue prompts with MODEL, a directory made by `gossamer convert` or `gossamer prune`.

    One prompt is printed as it is generated; several are generated together and printed in their order. For instruction-tuned models,
    `gossamer chat` applies the chat template.
    """
    texts = [*prompts, *more_prompts] or [_standard_input()]
    keywords = sampling_keywords(options)
    if ignore_eos:
        keywords["ignore_eos"] = True
    with load_runtime(model, options) as runtime:
        start = time.perf_counter()
        count = _stream(runtime, texts[0], keywords, echo) if len(texts) == 1 else _together(runtime, texts, keywords, echo)
        if sys.stderr.isatty():
            seconds = time.perf_counter() - start
            click.secho(f"{count} tokens in {seconds:.2f} s, {count / seconds:.1f} tokens/s", dim=True, err=True)


def _stream(runtime: Runtime, text: str, keywords: dict[str, Any], echo: bool) -> int:
    count = 0
    with runtime.stream(text, **keywords) as stream:
        if echo:
            click.echo(text, nl=False)
        for chunk in stream:
            count += len(chunk.token_ids)
            if chunk.text:
                click.echo(chunk.text, nl=False)
                sys.stdout.flush()
    click.echo()
    return count


def _together(runtime: Runtime, texts: list[str], keywords: dict[str, Any], echo: bool) -> int:
    keywords = {"max_tokens": None, **keywords}
    outputs = runtime.generate(texts, **keywords)
    for text, output in zip(texts, outputs, strict=True):
        click.secho(f"--- {text!r}", dim=True)
        click.echo((text if echo else "") + output.outputs[0].text)
    return sum(len(output.outputs[0].token_ids) for output in outputs)


def _standard_input() -> str:
    if sys.stdin.isatty():
        raise click.UsageError('no prompt; give one with -p "TEXT" or on standard input.')
    text = sys.stdin.read().removesuffix("\n")
    if not text:
        raise click.UsageError("standard input is empty; give a prompt there or with -p.")
    return text
