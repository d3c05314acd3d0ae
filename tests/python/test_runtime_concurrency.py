"""Threads, interrupts, cancellation, asyncio, forks and the end of the interpreter."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from conftest import wait_until_idle

from gossamer import Runtime, SamplingParams

LONG = SamplingParams(temperature=0, max_tokens=240, ignore_eos=True)
PROMPTS = [f"the {word}" for word in ("cat", "dog", "fox", "table", "grey", "lazy", "small", "brown")]


def test_eight_threads_get_what_each_would_alone(runtime):
    params = [SamplingParams(temperature=1, seed=i, max_tokens=30, ignore_eos=True) for i in range(8)]
    expected = [runtime.generate(prompt, one) for prompt, one in zip(PROMPTS, params, strict=True)]
    found = [None] * 8

    def work(i):
        for _ in range(3):
            found[i] = runtime.generate(PROMPTS[i], params[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == expected
    wait_until_idle(runtime)


@pytest.mark.parametrize("call", ["score", "calibrate", "generate"])
def test_other_threads_run_during_a_call(runtime, call):
    """The longest time that a ticking thread is held up is far below the length of the call."""
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.wait(0.005):
            ticks.append(time.monotonic())

    sequences = [[7] * 250] * 64
    thread = threading.Thread(target=tick)
    thread.start()
    start = time.monotonic()
    while time.monotonic() - start < 0.6:
        if call == "generate":
            runtime.generate(sequences[:32], max_tokens=5)
        else:
            getattr(runtime, call)(sequences)
    end = time.monotonic()
    stop.set()
    thread.join()
    times = [start, *(t for t in ticks if start < t < end), end]
    assert max(b - a for a, b in itertools.pairwise(times)) < 0.3


class Interrupt:
    """Sends this process a SIGINT after a while, and knows when.

    Without garbage collection meanwhile: hypothesis hangs a callback into it, and Python drops a KeyboardInterrupt raised in there.
    """

    def __init__(self, delay=0.3):
        self._timer = threading.Timer(delay, self._send)

    def _send(self):
        self.sent = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

    def __enter__(self):
        gc.disable()
        self._timer.start()
        return self

    def __exit__(self, *_):
        gc.enable()
        self._timer.cancel()
        self._timer.join()


@pytest.mark.parametrize("call", ["generate", "stream", "score", "calibrate", "chat"])
def test_ctrl_c_is_answered_within_half_a_second_and_the_engine_lives_on(runtime, call):
    before = runtime.generate("the", LONG)

    def work():
        if call == "generate":
            runtime.generate(["the cat"] * 3000, LONG)
        elif call == "stream":
            while True:
                list(runtime.stream("the cat", LONG))
        elif call == "chat":
            runtime.chat([[{"role": "user", "content": "hello"}]] * 2000, ignore_eos=True)
        else:
            getattr(runtime, call)([[7] * 250] * 2000)

    with Interrupt() as interrupt, pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() - interrupt.sent < 0.5
    wait_until_idle(runtime)
    assert runtime.generate("the", LONG) == before


def test_an_abandoned_stream_is_cancelled(runtime):
    stream = runtime.stream("the cat", ignore_eos=True)
    next(stream)
    del stream
    gc.collect()
    wait_until_idle(runtime)
    aborted = runtime.stats().requests_aborted
    for _ in runtime.stream("the cat", LONG):
        break
    gc.collect()
    wait_until_idle(runtime)
    assert runtime.stats().requests_aborted == aborted + 1


def test_an_exception_while_streaming_cancels_once_and_reaches_the_caller(runtime):
    def consume():
        with runtime.stream("the cat", LONG) as stream:
            for _ in stream:
                raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        consume()
    wait_until_idle(runtime)


def test_cancelling_again_and_after_the_end_is_fine(runtime):
    stream = runtime.stream("the cat", max_tokens=2)
    text = [chunk.text for chunk in stream]
    stream.close()
    stream.close()
    assert list(stream) == []
    assert len(text) >= 1
    unstarted = runtime.stream("the cat", LONG)
    unstarted.close()
    assert list(unstarted) == []
    wait_until_idle(runtime)


def test_other_calls_inside_a_stream(runtime):
    expected = runtime.generate("the dog", max_tokens=4, temperature=0)
    with runtime.stream("the cat", LONG) as stream:
        for count, _ in enumerate(stream):
            if count % 50 == 0:
                assert runtime.generate("the dog", max_tokens=4, temperature=0) == expected
                assert len(runtime.score("the dog")) == 1


def test_closing_under_a_running_call_ends_it(tiny_model):
    runtime = Runtime(tiny_model, device="cpu", num_threads=1)
    ended = []

    def work():
        try:
            runtime.generate(["the cat"] * 5000, LONG)
        except ValueError as error:
            ended.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.2)
    runtime.close()
    thread.join(timeout=5)
    assert not thread.is_alive()
    assert ended
    assert "closed" in ended[0]


# asyncio


def test_async_twins_return_the_same(runtime):
    messages = [{"role": "user", "content": "hello"}]

    async def work():
        batches = await asyncio.gather(*(runtime.agenerate(prompt, LONG) for prompt in PROMPTS))
        chunks = [chunk async for chunk in runtime.astream("the cat", LONG)]
        answer = await runtime.achat(messages, temperature=0, max_tokens=8)
        return [batch[0] for batch in batches], chunks, answer

    batches, chunks, answer = asyncio.run(work())
    assert batches == runtime.generate(PROMPTS, LONG)
    assert "".join(chunk.text for chunk in chunks) == runtime.generate("the cat", LONG)[0].outputs[0].text
    assert answer == runtime.chat(messages, temperature=0, max_tokens=8)


def test_cancelled_tasks_free_their_requests(runtime):
    async def work():
        ticks = 0
        tasks = [asyncio.create_task(runtime.agenerate(["the cat"] * 2000, LONG)) for _ in range(4)]
        for _ in range(20):
            await asyncio.sleep(0.005)
            ticks += 1
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 4
        async with runtime.astream("the cat", LONG) as stream:
            async for _ in stream:
                break
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(runtime.agenerate(["the cat"] * 2000, LONG), 0.05)
        unfinished = runtime.astream("the cat", LONG)
        await unfinished.__anext__()
        return ticks

    assert asyncio.run(work()) == 20
    gc.collect()
    wait_until_idle(runtime)


# Processes


def run_script(body: str, model: os.PathLike[str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
    prelude = "import os, sys, threading, time\nimport gossamer\nfrom gossamer import Runtime\nMODEL = sys.argv[1]\n"
    command = [sys.executable, "-X", "faulthandler", "-c", prelude + textwrap.dedent(body), str(model)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def check_script(body: str, model: os.PathLike[str], code: int = 0) -> str:
    start = time.monotonic()
    result = run_script(body, model)
    assert result.returncode == code, result.stderr
    assert result.stderr == "", "nothing may be printed, a leak report least of all"
    assert time.monotonic() - start < 30
    return result.stdout


def test_import_starts_no_thread(tiny_model):
    check_script(
        """
        import numpy, tokenizers
        before = len(os.listdir("/proc/self/task"))
        from gossamer import _core
        import gossamer.runtime
        assert len(os.listdir("/proc/self/task")) == before
        assert not any("cuda" in line for line in open("/proc/self/maps"))
        """,
        tiny_model,
    )


@pytest.mark.parametrize(
    "body",
    [
        "runtime = Runtime(MODEL, device='cpu')",
        "runtime = Runtime(MODEL, device='cpu'); runtime.generate('the')",
        "runtime = Runtime(MODEL, device='cpu'); stream = runtime.stream('the', ignore_eos=True); next(stream)",
        "runtime = Runtime(MODEL, device='cpu'); stream = runtime.stream('the'); runtime.me = runtime; stream.me = stream",
        "with Runtime(MODEL, device='cpu') as runtime: outputs = runtime.generate(['the'] * 9, n=2, logprobs=3)",
        "try: Runtime('/nonexistent')\nexcept (ValueError, OSError): pass",
    ],
    ids=["unused", "open", "mid-stream", "cycles", "closed", "failed"],
)
def test_the_interpreter_ends_quietly(tiny_model, body):
    check_script(body, tiny_model)


def test_exit_inside_a_stream_keeps_its_code(tiny_model):
    body = """
        runtime = Runtime(MODEL, device="cpu")
        for chunk in runtime.stream("the cat", ignore_eos=True):
            sys.exit(7)
        """
    check_script(body, tiny_model, code=7)


def test_exit_with_a_generating_daemon_thread(tiny_model):
    start = time.monotonic()
    body = """
        threading.excepthook = lambda args: None
        runtime = Runtime(MODEL, device="cpu")
        threading.Thread(target=lambda: runtime.generate(["the cat"] * 100000, ignore_eos=True), daemon=True).start()
        time.sleep(0.5)
        """
    result = run_script(body, tiny_model)
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - start < 15
    assert "Fatal" not in result.stderr


def test_a_forked_child_is_told_and_the_parent_is_unharmed(tiny_model):
    body = """
        runtime = Runtime(MODEL, device="cpu")
        expected = runtime.generate("the cat", temperature=0)
        stream = runtime.stream("the cat", ignore_eos=True)  # not read yet: one chunk may hold all that a slow reader missed
        child = os.fork()
        if child == 0:
            for call in (lambda: runtime.generate("x"), lambda: next(stream), runtime.close, runtime.stats, lambda: runtime.score("x")):
                try:
                    call()
                except RuntimeError as error:
                    assert "another process" in str(error), error
                else:
                    sys.exit(1)
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert runtime.generate("the cat", temperature=0) == expected
        assert next(stream)
        """
    check_script(body, tiny_model)


def test_ctrl_c_while_loading(tiny_model):
    """KeyboardInterrupt out of the progress callback, and out of a signal, leaves nothing behind."""
    body = """
        import signal
        def progress(done, total):
            raise KeyboardInterrupt
        for _ in range(20):
            try:
                Runtime(MODEL, device="cpu", progress=progress).close()
            except KeyboardInterrupt:
                pass
        for delay in (0.0001, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05):
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)
                signal.signal(signal.SIGALRM, signal.default_int_handler)
                Runtime(MODEL, device="cpu").close()
                time.sleep(0.1)
            except KeyboardInterrupt:
                pass
        with Runtime(MODEL, device="cpu") as runtime:
            assert runtime.generate("the")
        """
    check_script(body, tiny_model)
