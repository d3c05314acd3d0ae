"""The engine on a GPU: recorded steps, candidates, many requests with preemptions, memory, and what a lost device does."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import tiny_model as tiny
from conftest import wait_until_idle

from gossamer import OutOfMemoryError, Runtime, SamplingParams

pytestmark = pytest.mark.gpu

PROMPTS = [[1 + (7 * i + j) % 300 for j in range(1 + 5 * i % 23)] for i in range(24)]


def answers(model: Path, gpu: str, **options: Any) -> list[tuple[list[int], list[float]]]:
    """Tokens and their log-probabilities of greedy and of drawn requests, which must not depend on who shared a step with whom."""
    params = [
        SamplingParams(max_tokens=20 + i % 12, temperature=0.0 if i % 2 else 0.9, seed=i, ignore_eos=True, logprobs=1)
        for i in range(len(PROMPTS))
    ]
    with Runtime(model, device=gpu, max_num_seqs=12, batch_invariant=True, **options) as runtime:
        outputs = runtime.generate(PROMPTS, params)
        wait_until_idle(runtime)
    samples = [output.outputs[0] for output in outputs]
    return [
        (list(s.token_ids), [found[token].logprob for token, found in zip(s.token_ids, s.logprobs or [], strict=True)]) for s in samples
    ]


def test_recording_and_running_ahead_change_no_bit(tiny_model: Path, gpu: str) -> None:
    expected = answers(tiny_model, gpu, enforce_eager=True)
    assert answers(tiny_model, gpu) == expected
    assert answers(tiny_model, gpu, candidates=["ahead"]) == expected
    assert answers(tiny_model, gpu, candidates=["ahead"], enforce_eager=True) == expected
    assert answers(tiny_model, gpu, candidates=["head"]) == expected
    assert answers(tiny_model, gpu, candidates=["ahead", "head", "pack"]) == expected


@pytest.mark.parametrize("candidates", [[], ["ahead", "head", "pack"]], ids=["default", "candidates"])
def test_a_thousand_requests_leave_nothing_behind(tiny_model: Path, candidates: list[str], gpu: str) -> None:
    draw = random.Random(4)
    prompts = [[draw.randrange(300) for _ in range(draw.randint(1, 90))] for _ in range(1000)]
    params = [
        SamplingParams(
            max_tokens=draw.randint(1, 60),
            temperature=draw.choice([0.0, 0.8]),
            repetition_penalty=draw.choice([1.0, 1.0, 1.2]),
            seed=i,
            ignore_eos=True,
        )
        for i in range(1000)
    ]
    block = 16 * 2 * 12 * 3 * 2 * 2  # bytes: 16 tokens, 2 heads of 12, 3 layers, keys and values of 2 bytes
    # 30 of them: few enough that what the scheduler admits outgrows them at times.
    with Runtime(tiny_model, device=gpu, max_model_len=160, max_num_seqs=32, kv_cache_memory=30 * block, candidates=candidates) as runtime:
        runtime.generate(prompts[:100], params[:100])
        wait_until_idle(runtime)
        before = runtime.stats()
        outputs = runtime.generate(prompts, params)
        wait_until_idle(runtime)
        after = runtime.stats()
        assert [len(o.outputs[0].token_ids) for o in outputs] == [p.max_tokens for p in params]
        assert after.preemptions > before.preemptions
        assert after.free_blocks == runtime.info().num_blocks
        assert after.requests_finished - before.requests_finished == 1000
        assert after.host_live_bytes == before.host_live_bytes


def test_a_device_that_is_too_small_says_what_to_do(tiny_model: Path, gpu: str) -> None:
    config = dict(tiny.config(), vocab_size=1_000_000, hidden_size=65536, num_attention_heads=512, head_dim=128)  # a head of 131 GB
    with pytest.raises(OutOfMemoryError, match="Use a smaller or sparser model"):
        Runtime(config, weights="random", device=gpu)
    with Runtime(tiny_model, device=gpu) as runtime:
        assert len(runtime.generate([[1, 2, 3]], max_tokens=4, ignore_eos=True)[0].outputs[0].token_ids) == 4


# A kernel of no use but to fail, launched beside the engine in the same context through the driver: what any bad kernel does to a device.
FAIL = """
    import ctypes, sys, threading, time
    import gossamer
    from gossamer import EngineDeadError, Runtime

    PTX = b'''.version 7.0
    .target sm_80
    .address_size 64
    .visible .entry fail() { BODY }
    '''

    def lose_the_device() -> None:
        cuda = ctypes.CDLL("libcuda.so.1")
        device, context, module, function = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        for status in (
            cuda.cuInit(0),
            cuda.cuDeviceGet(ctypes.byref(device), 0),
            cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device),
            cuda.cuCtxSetCurrent(context),
            cuda.cuModuleLoadData(ctypes.byref(module), PTX),
            cuda.cuModuleGetFunction(ctypes.byref(function), module, b"fail"),
            cuda.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, None, None),
        ):
            assert status == 0, status

    runtime = Runtime(sys.argv[1], device="cuda:0", max_model_len=256)
    runtime.generate([[1, 2, 3]], max_tokens=4, ignore_eos=True)
    threading.Timer(0.3, lose_the_device).start()
    begin = time.monotonic()
    try:
        while time.monotonic() - begin < 20:
            runtime.generate([[1, 2, 3]] * 4, max_tokens=200, ignore_eos=True)
    except EngineDeadError as error:
        assert "CUDA" in str(error).upper(), error
    else:
        sys.exit("the lost device went unnoticed")
    for call in range(2):
        try:
            runtime.generate([[1, 2, 3]])
        except EngineDeadError:
            continue
        sys.exit("a dead engine answered")
    runtime.close()
    print("dead after", round(time.monotonic() - begin, 1), "s")
"""


@pytest.mark.parametrize("body", ["trap;", ".reg .u64 p; mov.u64 p, 8; st.global.u32 [p], 1; ret;"], ids=["trap", "illegal address"])
def test_a_failing_kernel_ends_the_engine_and_hangs_nothing(body: str, tiny_model: Path, gpu: str) -> None:
    program = textwrap.dedent(FAIL).replace("BODY", body)
    done = subprocess.run([sys.executable, "-c", program, tiny_model], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dead after" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
@pytest.mark.parametrize("candidates", [[], ["ahead", "head", "pack"]], ids=["default", "candidates"])
def test_compute_sanitizer_finds_nothing(tool: str, candidates: list[str], tiny_model: Path, gpu: str) -> None:
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed; it comes with the CUDA toolkit")
    program = (
        "import sys; from gossamer import Runtime\n"
        f"with Runtime(sys.argv[1], device='cuda:0', max_model_len=128, candidates={candidates!r}) as runtime:\n"
        "    prompts = [[1, 2, 3], list(range(1, 40)), [5] * 20]\n"
        "    runtime.generate(prompts, max_tokens=12, temperature=0.8, top_p=0.9, seed=1, ignore_eos=True)\n"
    )
    command = [sanitizer, "--tool", tool, "--error-exitcode", "99", sys.executable, "-c", program, str(tiny_model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
