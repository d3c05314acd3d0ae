"""The progress bar of convert and export: shown on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["bar"]


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function of (done, total, what is being done) that draws the bar on stderr."""
    from tqdm import tqdm

    with tqdm(desc=title, unit=" weights", unit_scale=True, disable=not sys.stderr.isatty(), leave=False) as shown:

        def update(done: int, total: int, what: str) -> None:
            shown.total = total
            shown.set_postfix_str(what, refresh=False)
            shown.update(done - shown.n)

        yield update
