"""Where `gossamer tune` stores the kernel times of a GPU, and where a `Runtime` finds them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gossamer import _core
from gossamer.errors import DeviceError

__all__ = ["cuda_index", "stored_table", "table_path"]


def table_path(gpu: str) -> Path:
    """Return the file for a GPU of this name: in ``$XDG_CACHE_HOME/gossamer``, else in ``~/.cache/gossamer``."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return folder / "gossamer" / f"cost_table_{re.sub('[^a-z0-9]+', '_', gpu.lower()).strip('_')}.txt"


def cuda_index(device: str) -> int | None:
    """Return N of "cuda:N", 0 of "cuda" and "auto", None of a device that is no GPU or no device."""
    match = re.fullmatch(r"auto|cuda(?::(\d{1,4}))?", device)
    return None if match is None else int(match[1] or 0)


def stored_table(device: str) -> str:
    """Return the path of the table stored for a device, "" if there is none."""
    index = cuda_index(device)
    if index is None:
        return ""
    try:
        gpus = _core.probe_backend("cuda")["devices"]
    except DeviceError:
        return ""
    path = table_path(gpus[index]["name"]) if index < len(gpus) else None
    return str(path) if path is not None and path.is_file() else ""
