"""Checks of arguments, with messages that name the argument and its range."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

__all__ = ["INT32_MAX", "INT64_MAX", "integer", "real", "shown"]

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


def integer(name: str, value: Any, low: int, high: int, *, high_name: str = "") -> int:
    """Return value as an int in [low, high]; TypeError or ValueError names the argument. A bool is no integer."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {shown(value)}") from None
    if not low <= number <= high:
        limit = f"{high_name} = {high}" if high_name and high != INT64_MAX else str(high)
        raise ValueError(f"{name} must be from {low} to {limit}, not {shown(value)}")
    return number


def real(name: str, value: Any, low: float, high: float, *, open_low: bool = False) -> float:
    """Return value as a finite float in [low, high], or (low, high]; TypeError or ValueError names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    above = number > low if open_low else number >= low
    if not (math.isfinite(number) and above and number <= high):
        bound = "a finite number" if math.isinf(high) else f"at most {high:g} and"
        raise ValueError(f"{name} must be {bound} {'above' if open_low else 'at least'} {low:g}, not {shown(value)}")
    return number + 0.0  # -0.0 becomes 0.0


def shown(value: Any) -> str:
    """Return a short repr for messages."""
    if isinstance(value, int) and value.bit_length() > 128:  # too long to print, and slow
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
