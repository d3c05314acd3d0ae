"""The `gossamer` command. Each sub-command is the click command named `command` of its own module, imported only when it is used."""

from __future__ import annotations

import importlib
import os
import sys

import click

from gossamer import errors

__all__ = ["main", "run_command"]

# Name → what the list of commands says about it. A command `name` lives in gossamer/cli/<name>.py.
COMMANDS = {
    "convert": "Make a model directory from a Hugging Face checkpoint or a GGUF file.",
    "prune": "Prune a model in one shot, without retraining (Wanda or magnitude).",
    "export": "Write a model as plain dense Hugging Face safetensors.",
    "inspect": "Show a model's tensors, sizes and densities.",
    "generate": "Continue prompts.",
    "chat": "Talk to a model in the terminal.",
    "eval": "Measure perplexity on texts, with its standard error.",
    "bench": "Measure prefill and decode speed, latency and memory.",
    "tune": "Measure this machine's GPU, so that the fastest kernels are chosen.",
    "env": "Show versions, instruction sets and devices, for bug reports.",
}

# Exit codes beside click's 1 (a failed command) and 2 (wrong usage).
EXIT_BAD_CHECKPOINT = 65
EXIT_NO_DEVICE = 3
EXIT_ENGINE_DEAD = 70

EXAMPLES = """\b
Examples:
  gossamer convert model.gguf models/smollm2
  gossamer prune models/smollm2 models/smollm2-40 --sparsity 0.4 --calibration text.txt
  gossamer generate models/smollm2-40 "The capital of France is"
  gossamer bench models/smollm2 models/smollm2-40
"""


class LazyGroup(click.Group):
    """A group that imports a sub-command's module when that command runs, so that `--help` and `env` stay quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"gossamer.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            ctx.fail(f"no command {args[0]!r}; the commands are {', '.join(COMMANDS)}.")
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120}
)
@click.version_option(package_name="gossamer")
def cli() -> None:
    """Run and prune large language models with unstructured-sparse weights."""


def exit_code(error: BaseException) -> int:
    """The process exit code for an error that ended a command."""
    if isinstance(error, errors.CheckpointError):
        return EXIT_BAD_CHECKPOINT
    if isinstance(error, errors.DeviceError):
        return EXIT_NO_DEVICE
    if isinstance(error, errors.EngineDeadError):
        return EXIT_ENGINE_DEAD
    return 1


def main(argv: list[str] | None = None) -> None:
    """Entry point of `gossamer`."""
    run_command(cli, "gossamer", argv)


def run_command(command: click.Command, name: str, argv: list[str] | None = None) -> None:
    """Run a command; an expected error is one message on stderr, not a traceback (set GOSSAMER_TRACEBACK=1 to see it)."""
    try:
        command.main(args=argv, prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader went away (`| head`): end quietly, and keep the interpreter from flushing into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (ValueError, TypeError, OSError, MemoryError, ImportError, errors.DeviceError, errors.EngineDeadError,
            errors.QueueFullError, errors.NumericsError) as error:  # fmt: skip
        if os.environ.get("GOSSAMER_TRACEBACK"):
            raise
        click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(str(error) or type(error).__name__, err=True)
        sys.exit(exit_code(error))
