"""How much to prune, as it is written on the command line."""

from __future__ import annotations

import re
from typing import Any

import click

__all__ = ["Pattern", "Size", "Sparsities"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


class Sparsities(click.ParamType):
    """One fraction, or several separated by commas."""

    name = "fraction[,fraction…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            fractions = tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a fraction such as 0.5, nor several such as 0.3,0.4,0.5", param, ctx)
        for fraction in fractions:
            if not 0 < fraction < 1:
                self.fail(f"{fraction:g} is not between 0 and 1; the fraction of weights to drop, 0.5 for half of them", param, ctx)
        if len(set(fractions)) != len(fractions):
            self.fail(f"{value!r} names a fraction twice", param, ctx)
        return fractions


class Pattern(click.ParamType):
    """N:M, N weights kept of every M columns of a row; as (zeros, M)."""

    name = "n:m"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d+):(2|4|8|16)", value)
        if found is None or not 0 < int(found[1]) < int(found[2]):
            self.fail(f"{value!r} is not N:M with M one of 2, 4, 8, 16 and N less than M; 2:4 keeps two of every four weights", param, ctx)
        return int(found[2]) - int(found[1]), int(found[2])


class Size(click.ParamType):
    """Bytes, with a decimal (MB) or binary (MiB) unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?)?b?", value.strip().lower())
        if found is None:
            self.fail(f"{value!r} is not a size such as 180MB or 1.5GiB", param, ctx)
        return int(float(found[1]) * _UNITS[found[2] or ""])
