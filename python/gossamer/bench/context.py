"""What a measurement must name to be repeatable: machine, versions, commit, command, date."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import gossamer
from gossamer import _core

__all__ = ["commit", "context", "cpu_name"]


def cpu_name() -> str:
    """The processor's name and how many cores this process may use: "AMD EPYC 9B45, 2 cores"."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    """The checkout's commit, with "+" if files differ from it; "unknown" outside of a checkout of Gossamer."""
    here = Path(_core.__file__).resolve()
    root = next((p for p in (*here.parents, Path.cwd(), *Path.cwd().parents) if (p / "cpp" / "runtime.h").exists()), None)
    if root is None:
        return "unknown"

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def context(command: str | None = None) -> dict[str, Any]:
    """The fields that every row or file of results carries."""
    return {
        "cpu": cpu_name(),
        "gossamer": gossamer.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "commit": commit(),
        "command": command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
