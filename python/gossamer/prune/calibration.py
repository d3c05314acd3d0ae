"""The text that a pruner learns from, as token sequences in groups."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gossamer.chat_template import ChatTemplate
from gossamer.token_windows import read_text, windows
from gossamer.tokenizer import Tokenizer

__all__ = ["CalibrationSet"]

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
