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
    """Token sequences to calibrate with, in groups (one per file) that count the same, however many tokens each has."""

    groups: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def num_sequences(self) -> int:
        return sum(map(len, self.groups))

    @property
    def num_tokens(self) -> int:
        return sum(len(sequence) for group in self.groups for sequence in group)

    @property
    def sha256(self) -> str:
        """Identifies the tokens, sequences and groups in the manifest."""
        digest = hashlib.sha256(np.array([len(group) for group in self.groups], "<i8").tobytes())
        for group in self.groups:
            for sequence in group:
                digest.update(np.array([len(sequence), *sequence], "<i8").tobytes())
        return digest.hexdigest()

    @classmethod
    def from_files(
        cls, files: Sequence[str | os.PathLike[str]], side_files: dict[str, bytes], *, num_tokens: int, length: int
    ) -> CalibrationSet:
        """Take at most about `num_tokens` tokens, the same share of every file, as windows of `length` tokens spread evenly over each.

        The result is a function of the arguments alone.
        """
        if not files:
            raise ValueError("calibration needs at least one text file")
        if "tokenizer.json" not in side_files:
            raise ValueError("calibration needs text as tokens, and the model has no tokenizer.json; convert it again with one")
        tokenizer = Tokenizer(side_files["tokenizer.json"])
        template = ChatTemplate.from_files(side_files)
        share = max(1, round(num_tokens / length / len(files)))
        groups = []
        for file in files:
            text = read_text(Path(file), template)
            found = windows(tokenizer, text, length)
            if not found:
                whole = tokenizer.encode(text)
                if len(whole) < _SHORTEST_WINDOW:
                    raise ValueError(f"{file}: too short to calibrate with; give a text of at least {_SHORTEST_WINDOW} tokens")
                found = [whole]
            groups.append(tuple(tuple(sequence) for sequence in _spread(found, share)))
        return cls(tuple(groups))


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
    """Run the sequences through the model; weight name → norm of every input feature, f64 [k].

    The square of a norm is the mean over groups of the feature's mean square over tokens: ‖X‖₂ but for a factor, were there one group.
    `progress` gets the sequences done so far.
    """
    from gossamer.runtime import Runtime

    squares: dict[str, npt.NDArray[np.float64]] = {}
    with Runtime(model, **({"max_num_seqs": 1} | runtime_options)) as runtime:
        before = 0
        for group in calibration.groups:
            report = None if progress is None else lambda done, before=before: progress(before + done)
            result = runtime.calibrate([list(sequence) for sequence in group], progress=report)
            for name, sums in result.sum_squares.items():
                mean = sums / (result.num_tokens * len(calibration.groups))
                squares[name] = squares[name] + mean if name in squares else mean
            before += len(group)
    return {name: np.sqrt(values) for name, values in squares.items()}
