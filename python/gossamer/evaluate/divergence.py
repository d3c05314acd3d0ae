"""How far models are from another one on the same text: in what they predict, and layer by layer in their hidden states."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gossamer.evaluate.perplexity import EvaluationText, standard_error

__all__ = ["Divergence", "compare_layers", "log_softmax"]

Matrix = npt.NDArray[np.float32]

_ROWS = 512  # of logits at a time


@dataclass(frozen=True)
class Divergence:
    """A model against a baseline.

    Attributes
    ----------
    divergences : f64 [windows], Kullback-Leibler divergence KL(baseline ‖ model) of the predicted distributions, mean over a window's
        predicted tokens, nats
    layer_errors : f64 [layers], ‖h - h̄‖ / ‖h̄‖ over all tokens, h̄ the baseline's hidden states after the layer
    """

    divergences: npt.NDArray[np.float64]
    layer_errors: npt.NDArray[np.float64]

    @property
    def divergence(self) -> float:
        return float(self.divergences.mean())

    @property
    def divergence_se(self) -> float:
        """Standard error over windows; NaN for a single one."""
        return standard_error(self.divergences)


def compare_layers(
    baseline: str | os.PathLike[str],
    models: Sequence[str | os.PathLike[str]],
    text: EvaluationText,
    *,
    device: str = "auto",
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Divergence]:
    """Run all models side by side, a layer of each in memory at a time.

    Memory: the hidden states of the whole text for every model.

    Raises
    ------
    ValueError : models of different numbers of layers, hidden sizes or vocabularies.
    """
    from gossamer import _core

    length = text.window
    streams: list[Any] = [
        _core.LayerStream(os.fspath(path), device, "auto", "auto", num_threads or 0, max(2048, length), length)
        for path in (baseline, *models)
    ]
    shapes = {(stream.num_layers, stream.hidden_size, stream.vocab_size) for stream in streams}
    if len(shapes) > 1:
        raise ValueError("only models with the same number of layers, hidden size and vocabulary can be compared token by token")
    step = max(1, 2048 // length)
    packs = [[list(s) for s in text.sequences[i : i + step]] for i in range(0, len(text.sequences), step)]
    num_layers = streams[0].num_layers
    done, total = 0, len(streams) * (num_layers + 1)

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    states: list[list[Matrix]] = []
    for stream in streams:
        stream.load_embedding()
        states.append([stream.embed(pack) for pack in packs])
    errors = np.zeros((len(models), num_layers))
    for layer in range(num_layers):
        for stream, hidden in zip(streams, states, strict=True):
            stream.load_layer(layer, {})
            for pack, values in zip(packs, hidden, strict=True):
                stream.run_layer([len(s) for s in pack], values, False)
            tick()
        size = sum(float(np.vdot(h, h)) for h in states[0])
        for own, hidden in zip(errors, states[1:], strict=True):
            own[layer] = np.sqrt(sum(float(np.sum((h - d) ** 2, dtype=np.float64)) for h, d in zip(hidden, states[0], strict=True)) / size)
    found = _divergences(streams, states, packs, tick)
    return [Divergence(values, own) for values, own in zip(found, errors, strict=True)]


def _divergences(
    streams: Sequence[Any], states: Sequence[Sequence[Matrix]], packs: Sequence[Sequence[Sequence[int]]], tick: Callable[[], None]
) -> npt.NDArray[np.float64]:
    """KL of every model but the first, f64 [models - 1, windows]."""
    for stream in streams:
        stream.load_head()
        tick()
    windows: list[list[float]] = [[] for _ in streams[1:]]
    for index, pack in enumerate(packs):
        begin = 0
        for sequence in pack:
            sums = np.zeros(len(streams) - 1)
            last = begin + len(sequence) - 1  # what follows the last token is not predicted
            for first in range(begin, last, _ROWS):
                rows = slice(first, min(first + _ROWS, last))
                reference = log_softmax(streams[0].head(np.ascontiguousarray(states[0][index][rows])))
                share = np.exp(reference)
                for i, (stream, hidden) in enumerate(zip(streams[1:], states[1:], strict=True)):
                    other = log_softmax(stream.head(np.ascontiguousarray(hidden[index][rows])))
                    sums[i] += float(np.sum(share * (reference - other), dtype=np.float64))
            for values, value in zip(windows, sums, strict=True):
                values.append(value / (len(sequence) - 1))
            begin += len(sequence)
    return np.array(windows)


def log_softmax(logits: Matrix) -> Matrix:
    """Of every row, in place."""
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, dtype=np.float64, keepdims=True)).astype(np.float32)
    return logits
