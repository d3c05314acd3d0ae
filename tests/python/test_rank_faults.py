"""Ranks that die, hang, differ or should not have been started: every process ends, soon, with a cause and an exit code that is not 0."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import MPI_ENVIRONMENT, Launch, needs_mpirun, run_ranks

pytestmark = needs_mpirun

WATCHDOG = 4  # seconds
AFTER_DEATH = 5
AFTER_HANG = WATCHDOG + 10

# Stays in one phase until a signal ends it.
PROGRAM = """
import sys, time
from gossamer import Runtime

model, phase, watchdog = sys.argv[1:]

def load_progress(done, total):
    if phase == "load":
        print("in load", flush=True)
        time.sleep(60)

if phase == "start":
    print("in start", flush=True)
with Runtime(model, device="cpu", watchdog_seconds=float(watchdog), progress=load_progress) as runtime:
    if phase == "idle":
        print("in idle", flush=True)
        time.sleep(60)
    prompts = [list(range(3, 100))] * 16
    while phase != "close":
        runtime.generate(prompts, max_tokens=1 if phase == "prefill" else 100, temperature=0, ignore_eos=True)
        print("in", phase, flush=True)
    print("in close", flush=True)
    time.sleep(1)
"""


PHASES = ("start", "load", "prefill", "decode", "idle")


def launch_in(phase: str, model: Path, directory: Path, watchdog: int = 60) -> tuple[Launch, dict[int, int]]:
    launch = Launch(2, ["-c", PROGRAM, model, phase, str(watchdog)], directory)
    launch.wait_for_text(f"in {phase}")
    while sorted(pids := launch.ranks()) != [0, 1]:
        time.sleep(0.02)
    return launch, pids


def test_a_killed_rank_ends_all(tiny_model: Path, tmp_path: Path) -> None:
    for phase in PHASES:
        for rank in (0, 1):
            launch, pids = launch_in(phase, tiny_model, tmp_path)
            os.kill(pids[rank], signal.SIGKILL)
            launch.wait_until_gone(AFTER_DEATH)
            assert launch.process.returncode != 0, phase


@pytest.mark.parametrize(
    "stops",
    [
        [("start", 1), ("load", 0), ("load", 1), ("idle", 1), ("close", 1)],
        [("prefill", 0), ("prefill", 1), ("decode", 0), ("decode", 1)],
    ],
)
def test_a_stopped_rank_ends_all(stops: list[tuple[str, int]], tiny_model: Path, tmp_path: Path) -> None:
    launches = []
    for phase, rank in stops:
        launch, pids = launch_in(phase, tiny_model, tmp_path, WATCHDOG)
        os.kill(pids[rank], signal.SIGSTOP)
        launches.append((phase, rank, time.monotonic(), launch))
    for phase, rank, stopped, launch in launches:
        launch.wait_until_gone(AFTER_HANG - (time.monotonic() - stopped))
        assert launch.process.returncode != 0, phase
        if phase in ("start", "load"):  # progress is called from the start on
            assert "for the other ranks to start" in launch.output or "has been silent" in launch.output
        else:
            assert f"rank {rank} has been silent" in launch.output
        if (phase, rank) == ("decode", 1):  # what was in flight is answered with an error
            assert "EngineDeadError" in launch.output


def test_a_rank_killed_while_all_close_ends_them(tiny_model: Path, tmp_path: Path) -> None:
    launch, pids = launch_in("close", tiny_model, tmp_path)
    os.kill(pids[1], signal.SIGSTOP)
    time.sleep(2)  # rank 0 waits for it in close()
    os.kill(pids[1], signal.SIGKILL)
    launch.wait_until_gone(AFTER_DEATH)
    assert launch.process.returncode != 0


def test_a_rank_that_fails_names_itself(tiny_model: Path, tmp_path: Path) -> None:
    """Only rank 1's copy of the model is damaged."""
    damaged = tmp_path / "model"
    shutil.copytree(tiny_model, damaged)
    shard = next(damaged.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    program = "import os, sys, gossamer; gossamer.Runtime(sys.argv[1 + int(os.environ['OMPI_COMM_WORLD_RANK'])])"
    launch = run_ranks(2, ["-c", program, tiny_model, damaged], tmp_path, seconds=20)
    assert launch.process.returncode != 0
    assert "DeviceError: rank 1 could not start" in launch.output
    assert "contents are not what the manifest says" in launch.output


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("seed=rank", "seed"),
        ("block_size=16 << rank", "block_size"),
        ("dtype=['float32', 'bfloat16'][rank]", "dtype"),
        ("max_model_len=100 + rank", "max_model_len"),
        ("candidates=['ahead'] * rank", "candidates"),
    ],
)
def test_ranks_that_differ_are_named_with_the_field(option: str, name: str, tiny_model: Path, tmp_path: Path) -> None:
    program = f"import os, sys, gossamer; rank = int(os.environ['OMPI_COMM_WORLD_RANK']); gossamer.Runtime(sys.argv[1], {option})"
    launch = run_ranks(2, ["-c", program, tiny_model], tmp_path, seconds=20)
    assert launch.process.returncode != 0
    assert f"ValueError: rank 1 differs from rank 0 in {name}: it has" in launch.output


def test_another_checkpoint_is_named(tiny_model: Path, tmp_path: Path) -> None:
    import tiny_models

    from gossamer.convert import convert

    convert(tiny_models.write("llama", tmp_path / "source"), tmp_path / "other")
    program = "import os, sys, gossamer; gossamer.Runtime(sys.argv[1 + int(os.environ['OMPI_COMM_WORLD_RANK'])])"
    launch = run_ranks(2, ["-c", program, tiny_model, tmp_path / "other"], tmp_path, seconds=20)
    assert launch.process.returncode != 0
    assert "rank 1 differs from rank 0 in checkpoint (digest of gossamer.json)" in launch.output


def test_ranks_that_do_not_divide_the_model(tiny_model: Path, tmp_path: Path) -> None:
    launch = run_ranks(3, ["-c", "from gossamer.cli import main; main()", "generate", tiny_model, "-p", "x"], tmp_path, seconds=20)
    assert launch.process.returncode != 0
    assert "tensor_parallel_size must divide the model's num_attention_heads = 4; it is 3" in launch.output


def test_a_wrong_path_has_the_same_exit_code_as_alone(tmp_path: Path) -> None:
    launch = run_ranks(2, ["-c", "from gossamer.cli import main; main()", "generate", tmp_path / "none", "-p", "x"], tmp_path, seconds=20)
    assert launch.process.returncode not in (0, None)
    assert "none" in launch.output


def test_the_size_must_be_the_launchers(tiny_model: Path, tmp_path: Path) -> None:
    launch = run_ranks(2, ["-c", "import sys, gossamer; gossamer.Runtime(sys.argv[1], tensor_parallel_size=4)", tiny_model], tmp_path, 20)
    assert launch.process.returncode != 0
    assert "tensor_parallel_size must be 0 or the 2 ranks that Open MPI started, not 4" in launch.output


def test_a_second_runtime_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    program = "import sys, gossamer\nwith gossamer.Runtime(sys.argv[1]): pass\ngossamer.Runtime(sys.argv[1])"
    launch = run_ranks(2, ["-c", program, tiny_model], tmp_path, seconds=20)
    assert launch.process.returncode != 0
    assert "can make one Runtime" in launch.output


def test_one_shot_sums_are_for_gpus(tiny_model: Path, tmp_path: Path) -> None:
    program = "import sys, gossamer; gossamer.Runtime(sys.argv[1], device='cpu', all_reduce='one-shot')"
    launch = run_ranks(2, ["-c", program, tiny_model], tmp_path, seconds=20)
    assert launch.process.returncode != 0
    assert "ValueError: all_reduce='one-shot' is for GPUs" in launch.output


@pytest.mark.parametrize("variables", [{"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, {"PMI_RANK": "1", "PMI_SIZE": "2"}])
def test_the_wrong_mpirun_is_an_error_and_not_several_runs(variables: dict[str, str], tiny_model: Path) -> None:
    """The launcher says 2 ranks, MPI says 1: as under an mpirun of another installation."""
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", "from gossamer.cli import main; main()", "generate", tiny_model, "-p", "x"],
        env={**os.environ, **MPI_ENVIRONMENT, **variables}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 3, result.stderr
    if "does not load" in result.stderr:  # MPICH's library, where it is not installed
        assert "started by MPICH as one of several ranks" in result.stderr
    else:
        assert "of 2" in result.stderr
        assert "another MPI" in result.stderr
    assert result.stdout == ""
    assert time.monotonic() - start < 30
