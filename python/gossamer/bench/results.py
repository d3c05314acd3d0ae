"""Files of results: `{"rows": [...]}`, a row for every model, shape and way to run it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["KEY", "add_rows"]

KEY = ("model", "weights", "sparsity", "dtype", "candidates", "batch", "prompt_tokens", "new_tokens", "device")


def add_rows(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows into a results file; one that measures what a row of the file measures takes its place, but keeps its peer.

    Raises
    ------
    ValueError
        The file is there and is no file of results.
    """
    path = Path(path)
    held: list[dict[str, Any]] = []
    if path.exists():
        contents = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(contents, dict) or not isinstance(contents.get("rows"), list):
            raise ValueError(f"{path.name} is no file of results; name another")
        held = contents["rows"]
    merged = {_key(row): row for row in held}
    for row in rows:
        before = merged.get(_key(row), {})
        kept = {name: before[name] for name in ("peer", "peer_decode_tok_s") if not row.get("peer") and before.get("peer")}
        merged[_key(row)] = {**row, **kept}
    scratch = path.with_name(path.name + ".new")
    scratch.write_text(json.dumps({"rows": list(merged.values())}, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    values = [row.get(name) for name in KEY]
    return tuple(round(value, 2) if isinstance(value, float) else value for value in values)
