"""Fixtures shared by the Python tests."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tiny_model as tiny

if TYPE_CHECKING:
    from gossamer import Runtime


def pytest_configure() -> None:
    """Answer Ctrl-C also where a shell started the tests in the background, with SIGINT ignored: tests send it, children inherit it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: the tiny Llama, half of its weights zero. Read only."""
    return tiny.write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_huggingface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a plain Hugging Face directory. Read only."""
    return tiny.write_huggingface(tmp_path_factory.mktemp("tiny") / "huggingface")


@pytest.fixture(scope="module")
def runtime(tiny_model: Path) -> Iterator[Runtime]:
    """The tiny model, loaded; shared by a test file, so no test may close it."""
    from gossamer import Runtime

    with Runtime(tiny_model, device="cpu", num_threads=2) as runtime:
        yield runtime


@pytest.fixture(scope="session")
def gpu() -> str:
    """The device of tests marked `gpu`; they skip, and say why, where there is none."""
    from gossamer import DeviceError, _core

    try:
        found = _core.probe_backend("cuda")["devices"]
    except DeviceError as error:
        pytest.skip(f"no GPU can be used: {error}")
    if not found:
        pytest.skip("no NVIDIA GPU here")
    return "cuda:0"


def wait_until_idle(runtime: Runtime, seconds: float = 1.0) -> None:
    """The engine learns of a cancellation at its next step: soon nothing runs, and every block is free."""
    deadline = time.monotonic() + seconds
    while True:
        stats = runtime.stats()
        if stats.running == stats.waiting == 0 and stats.free_blocks == runtime.info().num_blocks:
            return
        assert time.monotonic() < deadline, f"still busy: {stats}"
        time.sleep(0.005)
