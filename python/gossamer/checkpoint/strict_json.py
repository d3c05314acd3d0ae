"""JSON from untrusted files: no duplicate keys, no NaN, bounded depth and size, valid Unicode, nothing after the value."""

from __future__ import annotations

import json
from typing import Any

from gossamer.checkpoint.faults import fault

__all__ = ["parse_object"]


def parse_object(data: bytes, file: str, *, max_depth: int = 64, max_bytes: int = 1 << 30) -> dict[str, Any]:
    """Parse a JSON object; CheckpointError names the file and what is wrong."""
    if len(data) > max_bytes:
        raise fault("The file is too large", file=file, expected=f"at most {max_bytes} bytes", found=len(data))

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            seen: set[str] = set()
            duplicate = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
            raise fault("A key occurs twice in one JSON object", file=file, found=duplicate)
        return out

    def no_constant(text: str) -> Any:
        raise fault("JSON knows no such number", file=file, found=text)

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except UnicodeDecodeError as error:
        raise fault("The file is not UTF-8", file=file, offset=error.start) from error
    except json.JSONDecodeError as error:
        raise fault(f"The file is not JSON: {error.msg}", file=file, offset=len(error.doc[: error.pos].encode())) from error
    except RecursionError:
        raise fault("The JSON is nested too deeply", file=file, expected=f"at most {max_depth} levels") from None
    except ValueError as error:  # an integer of thousands of digits; our own faults are ValueErrors too
        if hasattr(error, "fix"):
            raise
        raise fault(f"The file is not usable JSON: {error}", file=file) from error
    if not isinstance(value, dict):
        raise fault("The file must hold a JSON object", file=file, found=type(value).__name__)
    _check(value, file, max_depth)
    return value


def _check(value: Any, file: str, depth: int) -> None:
    if isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise fault("A string holds half of a surrogate pair", file=file, found=value)
    elif isinstance(value, dict | list):
        if depth <= 0:
            raise fault("The JSON is nested too deeply", file=file)
        for item in value:
            _check(item, file, depth - 1)
        if isinstance(value, dict):
            for item in value.values():
                _check(item, file, depth - 1)
