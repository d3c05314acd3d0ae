"""Rows of equal keys as Markdown or CSV."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["comma_separated", "markdown"]


def _width(text: str) -> int:
    """Columns on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text if not unicodedata.combining(c))


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """An aligned table; the first column and columns without digits are left-aligned, numbers right-aligned."""
    if not rows:
        return ""
    names = list(rows[0])
    cells = [[row.get(name, "") for name in names] for row in rows]
    widths = [max(3, _width(name), *(_width(line[i]) for line in cells)) for i, name in enumerate(names)]
    right = [i > 0 and all(line[i] == "" or line[i][0].isdigit() or line[i][0] in "-+" for line in cells) for i in range(len(names))]

    def render(line: Sequence[str]) -> str:
        padded = []
        for text, width, is_right in zip(line, widths, right, strict=True):
            fill = " " * (width - _width(text))
            padded.append(fill + text if is_right else text + fill)
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
    return "\n".join([render(names), rule, *(render(line) for line in cells)])


def comma_separated(rows: Sequence[Mapping[str, Any]]) -> str:
    """RFC 4180, with a header."""
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
