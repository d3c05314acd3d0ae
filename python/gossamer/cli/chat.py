"""`gossamer chat`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossamer.cli.options import load_runtime, runtime_options, sampling_keywords, sampling_options

if TYPE_CHECKING:
    from gossamer import Runtime

__all__ = ["command"]

EXAMPLES = """\b
Examples:
  gossamer chat models/smollm2
  gossamer chat models/smollm2 --system "You answer in one sentence." --temperature 0
  echo "What is the capital of France?" | gossamer chat models/smollm2

\b
While chatting: /reset forgets the conversation, /quit (or Ctrl-D) leaves, Ctrl-C stops a reply.
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--system", metavar="TEXT", help="A system message before the conversation.  [default: the template's own, if any]")
@sampling_options
@runtime_options
def command(model: Path, system: str | None, **options: Any) -> None:
    """Talk to MODEL, an instruction-tuned model with a chat template, in the terminal."""
    keywords = sampling_keywords(options)
    with load_runtime(model, options) as runtime:
        conversation = Conversation(runtime, system, keywords)
        interactive = sys.stdin.isatty()
        if interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  # line editing and history for input()
            click.secho(f"{model.name}: /reset forgets, /quit leaves, Ctrl-C stops a reply.", dim=True, err=True)
        while (line := _read_line(interactive)) is not None:
            if line in ("/quit", "/exit"):
                break
            if line == "/reset":
                conversation.reset()
                click.secho("The conversation is forgotten.", dim=True, err=True)
            elif line.startswith("/"):
                click.secho("The commands are /reset and /quit.", dim=True, err=True)
            elif line:
                conversation.say(line)


class Conversation:
    """The turns so far, and how the model answers."""

    def __init__(self, runtime: Runtime, system: str | None, keywords: dict[str, Any]) -> None:
        self._runtime = runtime
        self._system = system
        self._keywords = keywords
        self.reset()
        runtime.apply_chat_template([*self.messages, {"role": "user", "content": "?"}])  # no template: say so at once

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = [{"role": "system", "content": self._system}] if self._system else []

    def say(self, text: str) -> None:
        """Print the model's reply as it comes. Ctrl-C ends the reply, which stays in the conversation as far as it got."""
        from gossamer.errors import ContextLengthError

        self.messages.append({"role": "user", "content": text})
        try:
            stream = self._runtime.stream(self._runtime.apply_chat_template(self.messages), **self._keywords)
        except ContextLengthError as error:
            self.messages.pop()
            click.secho(f"{error}\nThe conversation is too long for the model; /reset starts a new one.", fg="yellow", err=True)
            return
        with stream:
            try:
                for chunk in stream:
                    click.echo(chunk.text, nl=False)
                    sys.stdout.flush()
            except KeyboardInterrupt:
                click.secho(" [stopped]", dim=True, nl=False, err=True)
            click.echo()
            reply = stream.output.outputs[0]
        if reply.finish_reason == "length" and "max_tokens" not in self._keywords:
            click.secho("The context is full; /reset starts a new conversation.", fg="yellow", err=True)
        self.messages.append({"role": "assistant", "content": reply.text})


def _read_line(interactive: bool) -> str | None:
    """Return the next line, or None at the end. Ctrl-C at the prompt drops what was typed."""
    while True:
        try:
            return input("> " if interactive else "").strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            if not interactive:
                raise
            click.echo()
