"""kill -9 and SIGSTOP of a rank in every phase: how long until all are gone, what is left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from launch import Launcher, gpu_memory_mib

AFTER_DEATH_S = 5.0
AFTER_WATCHDOG_S = 10.0
STOP_WATCHDOG_S = 4.0

# Those that say most first: time may run out.
CASES = [
    *((phase, rank, signal.SIGKILL) for phase, rank in [("decode", 1), ("decode", 0), ("prefill", 1), ("load", 1)]),
    *((phase, rank, signal.SIGSTOP) for phase, rank in [("decode", 1), ("decode", 0), ("load", 1)]),
    *((phase, rank, signal.SIGKILL) for phase, rank in [("prefill", 0), ("load", 0), ("idle", 1)]),
    *((phase, rank, signal.SIGSTOP) for phase, rank in [("prefill", 1), ("prefill", 0), ("load", 0)]),
]


def strike(launcher: Launcher, job: dict[str, Any], phase: str, rank: int, sig: signal.Signals, directory: Path) -> dict[str, Any]:
    """Start two ranks, wait for the phase, send one of them the signal, and watch."""
    limit = AFTER_DEATH_S if sig == signal.SIGKILL else STOP_WATCHDOG_S + AFTER_WATCHDOG_S
    watchdog = 30.0 if sig == signal.SIGKILL else STOP_WATCHDOG_S
    row: dict[str, Any] = {"phase": phase, "rank": rank, "signal": sig.name, "watchdog_s": watchdog, "limit_s": limit}
    before = gpu_memory_mib()
    options = {**job["options"], "watchdog_seconds": watchdog}
    process = launcher.start(job | {"kind": "stay", "phase": phase, "options": options}, 2, directory / "fault.txt")
    wanted = 2 if phase == "load" else 1  # both ranks speak then
    deadline = time.monotonic() + 60
    while process.text.count(f'"phase": "{phase}"') < wanted:
        if process.popen.poll() is not None or time.monotonic() > deadline:
            process.kill()
            return row | {"ok": False, "error": "the phase did not come", "output": process.text[-800:]}
        time.sleep(0.01)
    if phase == "load":
        time.sleep(1.0)  # connected by then
    os.kill(process.ranks()[rank], sig)
    struck = time.monotonic()
    while (process.popen.poll() is None or process.ranks()) and time.monotonic() - struck < limit + 20:
        time.sleep(0.02)
    row["all_gone_s"] = round(time.monotonic() - struck, 2)
    row["orphans"] = len(process.ranks())
    row["exit_code"] = process.popen.poll()
    process.kill()
    freed = time.monotonic()
    while any(now > then + 100 for now, then in zip(gpu_memory_mib(), before, strict=True)) and time.monotonic() - freed < 5:
        time.sleep(0.2)
    row["gpu_memory_mib"] = {"before": before, "after": gpu_memory_mib()}
    is_free = all(now <= then + 100 for now, then in zip(row["gpu_memory_mib"]["after"], before, strict=True))
    row["ok"] = row["all_gone_s"] <= limit and row["orphans"] == 0 and row["exit_code"] not in (0, None) and is_free
    row["said"] = [line for line in process.text.splitlines() if "rank" in line or "EngineDead" in line][-3:]
    return row
