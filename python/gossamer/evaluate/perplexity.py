"""Perplexity with its standard error, and the paired difference of two models on the same windows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gossamer.token_windows import read_text, windows
from gossamer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gossamer.runtime import Runtime

__all__ = ["WINDOW", "Comparison", "EvaluationText", "TextScore", "compare", "pooled", "score_text"]

WINDOW = 1024


@dataclass(frozen=True)
class EvaluationText:
    """A text cut into non-overlapping windows of equal length, which never see each other.

    The first token of a window is not predicted. A BOS begins every window if, and only if, the tokenizer adds one. What remains at the end
    of the text, shorter than a window, is left out. `sha256` is that of the file.
    """

    name: str
    sha256: str
    window: int
    sequences: tuple[tuple[int, ...], ...]

    @classmethod
    def from_file(cls, path: Path, tokenizer: Tokenizer, *, window: int = WINDOW, max_windows: int | None = None) -> EvaluationText:
        sequences = windows(tokenizer, read_text(path), window)
        if not sequences:
            raise ValueError(f"{path}: shorter than one window of {window} tokens; give a longer text or a smaller --window")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(path.name, digest, window, tuple(tuple(s) for s in sequences[:max_windows]))

    @property
    def num_predicted(self) -> int:
        """Tokens that are predicted, in all windows."""
        return sum(len(s) - 1 for s in self.sequences)


@dataclass(frozen=True)
class TextScore:
    """Mean negative log-likelihood per predicted token of every window, f64 [windows], in nats."""

    losses: npt.NDArray[np.float64]

    @property
    def loss(self) -> float:
        """Mean over all tokens; the windows are of equal length."""
        return float(self.losses.mean())

    @property
    def loss_se(self) -> float:
        """Standard error of `loss` over windows; NaN for a single one."""
        return standard_error(self.losses)

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    @property
    def perplexity_se(self) -> float:
        """First-order: perplexity × standard error of the loss."""
        return self.perplexity * self.loss_se


@dataclass(frozen=True)
class Comparison:
    """A model against a baseline on the same windows: the windows' difficulty cancels, so the error is smaller than either's own."""

    loss_difference: float
    loss_difference_se: float

    @property
    def perplexity_ratio(self) -> float:
        return math.exp(self.loss_difference)

    @property
    def perplexity_ratio_se(self) -> float:
        return self.perplexity_ratio * self.loss_difference_se


def standard_error(values: npt.NDArray[np.float64]) -> float:
    """Of the mean; NaN for fewer than two values."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def score_text(runtime: Runtime, text: EvaluationText, progress: Callable[[int], None] | None = None) -> TextScore:
    """Score every window; `progress` gets the windows done so far."""
    losses = []
    for done, sequence in enumerate(text.sequences, 1):
        (logprobs,) = runtime.score([list(sequence)])
        losses.append(-float(np.mean(np.asarray(logprobs, np.float64)[1:])))
        if progress:
            progress(done)
    return TextScore(np.array(losses))


def compare(score: TextScore, baseline: TextScore) -> Comparison:
    """Pair the windows of two scores of one text."""
    if len(score.losses) != len(baseline.losses):
        raise ValueError("only scores of the same windows can be compared")
    difference = score.losses - baseline.losses
    return Comparison(float(difference.mean()), standard_error(difference))


def pooled(scores: Sequence[TextScore]) -> TextScore:
    """The windows of several texts as one."""
    return TextScore(np.concatenate([s.losses for s in scores]))
