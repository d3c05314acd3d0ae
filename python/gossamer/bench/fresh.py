"""A fresh process per row, so that a row's peak memory is its own. Run as `python -m gossamer.bench.fresh` with a job on stdin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gossamer.bench.measure import Row, Shape, measure_model

__all__ = ["measure_fresh"]


def measure_fresh(
    model: str | os.PathLike[str],
    shape: Shape,
    *,
    repeats: int = 5,
    runtime_options: Mapping[str, Any] | None = None,
    read_rate: float = float("nan"),
) -> Row:
    """As `measure_model` for one shape, in a new process."""
    job = {
        "model": os.fspath(model),
        "shape": asdict(shape),
        "repeats": repeats,
        "runtime_options": dict(runtime_options or {}),
        "read_rate": read_rate,
    }
    done = subprocess.run([sys.executable, "-m", __name__], input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise RuntimeError(f"the measuring process failed: {reason[0]}")
    return Row(**json.loads(done.stdout))


def main() -> None:
    job = json.load(sys.stdin)
    shape = Shape(**job.pop("shape"))
    (row,) = measure_model(job.pop("model"), [shape], **job)
    json.dump(row.as_dict(), sys.stdout)


if __name__ == "__main__":
    main()
