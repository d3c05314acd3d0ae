"""Launching several ranks in tests, and seeing that none is left over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

__all__ = ["MPI_ENVIRONMENT", "Launch", "needs_mpirun", "run_ranks"]

needs_mpirun = pytest.mark.skipif(
    shutil.which("mpirun") is None and not os.environ.get("CI"), reason="mpirun is not installed; 'make setup-dev' installs it"
)

# mpirun refuses to work for root unless told.
MPI_ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


class Launch:
    """`mpirun -n num_ranks python ARGUMENTS...`, its output in a file."""

    def __init__(self, num_ranks: int, arguments: Sequence[str | Path], directory: Path, env: dict[str, str] | None = None) -> None:
        self.marker = f"gossamer-test-{uuid.uuid4().hex}"
        self.num_ranks = num_ranks
        self.output_path = directory / f"{self.marker}.txt"
        command = ["mpirun", "--oversubscribe", "-n", str(num_ranks), sys.executable, *map(str, arguments)]
        environment = {**os.environ, **MPI_ENVIRONMENT, **(env or {}), "GOSSAMER_TEST_MARKER": self.marker}
        with self.output_path.open("w") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment)

    @property
    def output(self) -> str:
        return self.output_path.read_text(errors="replace")

    def ranks(self) -> dict[int, int]:
        """Rank → process id of what runs (or is stopped), by the environment that the launcher gave it."""
        found = {}
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            try:
                variables = dict(
                    entry.split("=", 1) for entry in (process / "environ").read_bytes().decode(errors="replace").split("\0") if "=" in entry
                )
                state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except (OSError, IndexError):
                continue
            if variables.get("GOSSAMER_TEST_MARKER") == self.marker and "OMPI_COMM_WORLD_RANK" in variables and state != "Z":
                found[int(variables["OMPI_COMM_WORLD_RANK"])] = int(process.name)
        return found

    def wait_for_text(self, text: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.output:
            assert self.process.poll() is None, f"mpirun ended early:\n{self.output}"
            assert time.monotonic() < deadline, f"{text!r} did not come:\n{self.output}"
            time.sleep(0.02)

    def wait_until_gone(self, seconds: float) -> float:
        """Wait for mpirun and every rank to be gone; return how long it took."""
        start = time.monotonic()
        while self.process.poll() is None or self.ranks():
            if time.monotonic() - start > seconds:
                left = self.ranks()
                self.kill()
                raise AssertionError(f"after {seconds} s ranks {left} are left:\n{self.output}")
            time.sleep(0.05)
        return time.monotonic() - start

    def kill(self) -> None:
        self.process.kill()
        for pid in self.ranks().values():
            os.kill(pid, 9)
        self.process.wait()


def run_ranks(
    num_ranks: int, arguments: Sequence[str | Path], directory: Path, seconds: float = 120, env: dict[str, str] | None = None
) -> Launch:
    """Launch and wait; the exit code is the caller's to look at."""
    launch = Launch(num_ranks, arguments, directory, env)
    launch.wait_until_gone(seconds)
    return launch
