"""gossamer generate, chat and env: what they print, and how they fail."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
import tiny_model as tiny
from click.testing import CliRunner

import gossamer
from gossamer.cli import chat, cli, env, generate, main

COMMAND = [sys.executable, "-c", "from gossamer.cli import main; main()"]
PROMPT = "The quick brown fox"


def run(command, *arguments, stdin=None):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def greedy(runtime):
    return runtime.generate(PROMPT, temperature=0, max_tokens=20)[0].outputs[0].text


def shown(text):
    """Click prints to a text stream, which turns a carriage return into a line feed."""
    return text.replace("\r", "\n")


def test_generate_prints_what_the_runtime_gives(tiny_model, greedy):
    assert shown(run(generate.command, tiny_model, "-p", PROMPT, "-n", 20, "-t", 0)) == shown(greedy + "\n")
    assert shown(run(generate.command, tiny_model, PROMPT, "-n", 20, "-t", 0, "--echo")) == shown(PROMPT + greedy + "\n")


def test_generate_reads_standard_input(tiny_model, greedy):
    assert shown(run(generate.command, tiny_model, "-n", 20, "-t", 0, stdin=PROMPT + "\n")) == shown(greedy + "\n")


def test_generate_takes_several_prompts(tiny_model, greedy):
    output = shown(run(generate.command, tiny_model, "-p", PROMPT, "-p", "the cat", "-n", 20, "-t", 0))
    assert output.startswith(f"--- '{PROMPT}'\n{shown(greedy)}\n--- 'the cat'\n")


def test_generate_options_reach_the_sampler(tiny_model, runtime):
    keywords = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 3, "max_tokens": 30}
    options = [part for name, value in keywords.items() for part in ("--" + name.replace("_", "-"), value)]
    expected = runtime.generate(PROMPT, **keywords, ignore_eos=True, stop=["e"])[0].outputs[0].text
    output = run(generate.command, tiny_model, PROMPT, *options, "--ignore-eos", "--stop", "e", "--num-threads", 1, "--verify", "header")
    assert shown(output) == shown(expected + "\n")


def test_generate_streams(tiny_model):
    """The first text arrives while the rest is still being computed."""
    command = [*COMMAND, "generate", str(tiny_model), "-p", PROMPT, "--ignore-eos", "-t", "0", "--device", "reference", "-n", "230"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 100)
        running = process.poll() is None
        rest = process.stdout.read()
    assert process.returncode == 0
    assert first
    assert running
    assert len(first) < len(rest)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["generate", "{hf}", "-p", "x"], 65, "gossamer convert"),
        (["chat", "{hf}"], 65, "gossamer convert"),
        (["generate", "{model}", "-p", "x", "--temperature", "-1"], 2, "temperature"),
        (["generate", "{model}", "-p", "x", "--top-p", "7"], 1, "top_p must be at most 1"),
        (["generate", "{model}", "-p", "x", "-n", "100000"], 1, "256"),
        (["generate", "{model}", "-p", "x", "--no-such"], 2, "no-such"),
        (["generate"], 2, "MODEL"),
        (["generate", "{model}", "-p", ""], 1, "prompt"),
        (["generate", "{model}", "-p", "x", "--device", "cuda:99"], 3, "cuda"),
        (["generate", "{model}", "-p", "x", "--dtype", "int3"], 2, "dtype"),
    ],
)
def test_errors_are_one_message_and_an_exit_code(tiny_model, tiny_huggingface, capsys, arguments, code, message):
    with pytest.raises(SystemExit) as stop:
        main([argument.format(model=tiny_model, hf=tiny_huggingface) for argument in arguments])
    captured = capsys.readouterr()
    assert stop.value.code == code
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_missing_directory_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", str(tmp_path / "nowhere"), "-p", "x"])
    assert stop.value.code in (1, 65)
    assert "nowhere" in capsys.readouterr().err


def test_generate_without_a_prompt(tiny_model):
    result = CliRunner().invoke(generate.command, [str(tiny_model)], input="")
    assert result.exit_code == 2
    assert "standard input is empty" in result.output


def test_interrupting_generate_ends_it_at_once(tiny_model):
    command = [*COMMAND, "generate", str(tiny_model), *(["-p", PROMPT] * 200), "--ignore-eos", "--device", "reference"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(2.5)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, errors = process.communicate(timeout=20)
    assert time.monotonic() - start < 5
    assert process.returncode == 130
    assert errors.strip() == "Interrupted."


def test_chat_through_a_pipe(tiny_model, runtime):
    first = [{"role": "user", "content": "hello"}]
    answer = runtime.chat(first, temperature=0, max_tokens=12)[0].outputs[0].text
    second = [*first, {"role": "assistant", "content": answer}, {"role": "user", "content": "and?"}]
    expected = answer + "\n" + runtime.chat(second, temperature=0, max_tokens=12)[0].outputs[0].text + "\n"
    assert shown(run(chat.command, tiny_model, "-t", 0, "-n", 12, stdin="hello\n\nand?\n")) == shown(expected)
    again = run(chat.command, tiny_model, "-t", 0, "-n", 12, stdin="hello\n/reset\nhello\n/quit\nnot read\n")
    assert shown(again) == shown(answer + "\n" + answer + "\n")


def test_chat_with_a_system_message(tiny_model, runtime):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    expected = runtime.chat(messages, temperature=0, max_tokens=12)[0].outputs[0].text
    output = run(chat.command, tiny_model, "--system", "Be brief.", "-t", 0, "-n", 12, stdin="hello\n")
    assert shown(output) == shown(expected + "\n")


def test_chat_goes_on_after_a_too_long_message(tiny_model):
    result = CliRunner().invoke(
        chat.command, [str(tiny_model), "-t", "0", "-n", "5"], input="word " * 300 + "\nhello\n", catch_exceptions=False
    )
    assert result.exit_code == 0
    assert "/reset" in result.stderr
    assert result.stdout.strip("\n")


def test_chat_needs_a_template(tmp_path):
    files = {**tiny.side_files(), "tokenizer_config.json": b"{}"}
    model = tiny.write_model(tmp_path / "model", files)
    with pytest.raises(ValueError, match="chat template"):
        run(chat.command, model, stdin="hello\n")


class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, *arguments):
        self.process, self.handle = pty.fork()
        if self.process == 0:
            os.environ["TERM"] = "dumb"
            os.execv(COMMAND[0], [*COMMAND, *arguments])
        self.output = ""

    def expect(self, pattern, seconds=30):
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.output)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.output!r}"
            if select.select([self.handle], [], [], 0.1)[0]:
                self.output += os.read(self.handle, 4096).decode(errors="replace")
        self.output = self.output[match.end() :]

    def send(self, text):
        os.write(self.handle, text.encode())

    def end(self):
        os.close(self.handle)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def test_chat_on_a_terminal_ctrl_c_stops_the_reply_and_not_the_program(tiny_model):
    terminal = Terminal("chat", str(tiny_model), "--device", "reference", "-t", "0")
    terminal.expect("/reset forgets")
    terminal.expect("> ")
    terminal.send("hello\r")
    terminal.expect("hello\r\n.")  # the echo, and the beginning of the reply
    terminal.send("\x03")
    terminal.expect("\n> ")
    time.sleep(0.5)  # readline shows its prompt before it listens: a Ctrl-C in between waits for the next key
    terminal.send("dropped\x03")
    terminal.expect("\n> ")
    terminal.send("/unknown\r")
    terminal.expect("commands are /reset and /quit")
    terminal.send("/quit\r")
    time.sleep(0.5)
    assert terminal.end() == 0


def test_env(capsys):
    facts = json.loads(run(env.command, "--json"))
    assert facts["gossamer"] == facts["core"] == gossamer.__version__
    assert facts["instructions"][0] == "portable"
    assert facts["cores"] >= 1
    assert "LlamaForCausalLM" in facts["architectures"]
    assert "numpy" in facts["libraries"]
    text = run(env.command)
    assert all(name + ":" in text for name in facts)


@pytest.mark.parametrize("name", ["generate", "chat", "env"])
def test_help_has_examples(name):
    text = run(cli, name, "--help")
    assert "Examples:" in text
    assert f"gossamer {name}" in text


def test_versions_agree():
    from pathlib import Path

    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'version = "{gossamer.__version__}"' in pyproject
