"""The `gossamer` command: help, wrong usage, exit codes."""

import subprocess
import sys

import click
import pytest

from gossamer import cli, errors


def run(*args: str) -> subprocess.CompletedProcess[str]:
    code = f"from gossamer.cli import main; main({list(args)!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_help_lists_every_command_and_imports_none():
    code = (
        "import sys; from gossamer.cli import cli\n"
        "try: cli.main(['-h'], prog_name='gossamer')\n"
        "finally: print([m for m in sys.modules if m.startswith('gossamer.cli.')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for name in cli.COMMANDS:
        assert f"  {name} " in result.stdout
    assert "Examples:" in result.stdout
    assert result.stdout.rstrip().endswith("[]")


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help_with_examples(name):
    result = run(name, "-h")
    assert result.returncode == 0, result.stderr
    assert "Examples:" in result.stdout or "Example:" in result.stdout
    assert f"gossamer {name}" in result.stdout


def test_unknown_command_names_the_known_ones():
    result = run("prun")
    assert result.returncode == 2
    assert "no command 'prun'" in result.stderr
    assert "prune" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.CheckpointError("bad"), 65),
        (errors.ChecksumError("bad"), 65),
        (errors.DeviceError("no device"), 3),
        (errors.EngineDeadError("dead"), 70),
        (ValueError("wrong"), 1),
        (FileNotFoundError("missing"), 1),
    ],
)
def test_exit_codes(monkeypatch, capsys, error, code):
    def fail(**_):
        raise error

    monkeypatch.setattr(cli.cli, "get_command", lambda ctx, name: click.Command(name, callback=fail))
    with pytest.raises(SystemExit) as stop:
        cli.main(["env"])
    assert stop.value.code == code
    assert str(error) in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail(**_):
        raise KeyError("bug")

    monkeypatch.setattr(cli.cli, "get_command", lambda ctx, name: click.Command(name, callback=fail))
    with pytest.raises(KeyError):
        cli.main(["env"])
