"""One way to say what is wrong with a checkpoint: what, where, expected and found, what to do."""

from __future__ import annotations

import unicodedata
from typing import TypeVar

from gossamer.errors import CheckpointError

__all__ = ["fault", "printable"]

_E = TypeVar("_E", bound=CheckpointError)
_MAX_NAME = 200


def printable(untrusted: str) -> str:
    """Escape control, bidi and surrogate characters and shorten to 200 characters: for names taken from files."""
    shown = "".join(
        c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape", "surrogatepass").decode() for c in untrusted[: _MAX_NAME + 1]
    )
    return shown if len(shown) <= _MAX_NAME else shown[:_MAX_NAME] + "…"


def fault(
    what: str,
    *,
    kind: type[_E] = CheckpointError,  # type: ignore[assignment]
    file: str = "",
    tensor: str = "",
    offset: int | None = None,
    field: str = "",
    expected: object = "",
    found: object = "",
    fix: str = "",
) -> _E:
    """Make the exception; the text holds every attribute that is given."""
    file, tensor, found, expected = printable(file), printable(tensor), printable(str(found)), printable(str(expected))
    where = [f"file {file}"] if file else []
    where += [f"tensor {tensor}"] if tensor else []
    where += [f"offset {offset}"] if offset is not None else []
    where += [f"field {field}"] if field else []
    text = what
    if where:
        text += f" ({', '.join(where)})"
    if expected or found:
        text += ": " + ", ".join(part for part in (f"expected {expected}" if expected else "", f"found {found}" if found else "") if part)
    if fix:
        text += f". {fix}"
    return kind(text, file=file, tensor=tensor, offset=offset, field=field, expected=expected, found=found, fix=fix)
