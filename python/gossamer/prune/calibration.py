"""What a pruner learns from text: the L2 norm of every input feature of every linear, in one pass of our own runtime."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gossamer.chat_template import ChatTemplate
from gossamer.token_windows import read_text, windows
from gossamer.tokenizer import Tokenizer

__all__ = ["CalibrationSet", "collect_norms"]

_SHORTEST_WINDOW = 16


@dataclass(frozen=True)
class CalibrationSet:
    """Token sequences to calibrate with, and the SHA-256 that identifies them in the manifest."""

    sequences: tuple[tuple[int, ...], ...]

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.sequences))

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for sequence in self.sequences:
            digest.update(np.array([len(sequence), *sequence], "<i8").tobytes())
        return digest.hexdigest()

    @classmethod
    def from_files(
        cls, files: Sequence[str | os.PathLike[str]], side_files: dict[str, bytes], *, num_tokens: int, length: int
    ) -> CalibrationSet:
        """Take about `num_tokens` tokens, the same share of every file, as windows of `length` tokens spread evenly over each.

        What a file cannot give, because it is short, the others make up for. The result is a function of the arguments alone.
        """
        if not files:
            raise ValueError("calibration needs at least one text file")
        if "tokenizer.json" not in side_files:
            raise ValueError("calibration needs text as tokens, and the model has no tokenizer.json; convert it again with one")
        tokenizer = Tokenizer(side_files["tokenizer.json"])
        template = ChatTemplate.from_files(side_files)
        per_file: list[list[list[int]]] = []
        for file in files:
            text = read_text(Path(file), template)
            found = windows(tokenizer, text, length)
            if not found:
                whole = tokenizer.encode(text)
                found = [whole] if len(whole) >= _SHORTEST_WINDOW else []
            if not found:
                raise ValueError(f"{file}: too short to calibrate with; give a text of at least {_SHORTEST_WINDOW} tokens")
            per_file.append(found)
        wanted = max(len(files), round(num_tokens / length))
        taken: dict[int, list[list[int]]] = {}
        # Short files first, so that what they lack is shared among the longer ones.
        for position, index in enumerate(sorted(range(len(files)), key=lambda i: len(per_file[i]))):
            share = -(-(wanted - sum(map(len, taken.values()))) // (len(files) - position))
            taken[index] = _spread(per_file[index], share)
        return cls(tuple(tuple(sequence) for index in range(len(files)) for sequence in taken[index]))


def _spread(items: list[list[int]], count: int) -> list[list[int]]:
    """`count` of the items, evenly spaced, or all."""
    if count >= len(items):
        return items
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def collect_norms(
    model: str | os.PathLike[str],
    calibration: CalibrationSet,
    *,
    runtime_options: dict[str, Any],
    progress: Callable[[int], None] | None = None,
) -> dict[str, npt.NDArray[np.float64]]:
    """Run the sequences through the model; weight name → ‖X‖₂ per input feature, f64 [k]. `progress` gets the sequences done so far."""
    from gossamer.runtime import Runtime

    with Runtime(model, **runtime_options) as runtime:
        result = runtime.calibrate([list(s) for s in calibration.sequences], progress=progress)
    return {name: np.sqrt(sums) for name, sums in result.sum_squares.items()}
