"""Calibration text on its way through a model, one layer in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gossamer.checkpoint.dtypes import Array
from gossamer.prune.arrays import floats
from gossamer.prune.calibration import CalibrationSet

__all__ = ["Chunk", "Moments", "as_replacement", "chunks_of", "embed", "inputs_of_layer", "open_stream", "run_layer"]

Matrix = npt.NDArray[np.float32]

CHUNK_TOKENS = 4096  # hidden states and captured inputs of so many tokens are moved at a time


@dataclass
class Chunk:
    """Whole sequences of one calibration group."""

    sequences: tuple[tuple[int, ...], ...]
    weight: float  # of each token, so that every group counts the same and all tokens together count 1
    hidden: Matrix = field(default_factory=lambda: np.empty((0, 0), np.float32))  # [tokens, hidden_size]

    @property
    def lengths(self) -> list[int]:
        return [len(sequence) for sequence in self.sequences]


@dataclass
class Moments:
    """Second moments of the inputs that some linears share: weighted mean over tokens of x xᵀ, f64 [k, k], of numpy or CuPy."""

    weight_names: tuple[str, ...]
    values: npt.NDArray[np.float64]


def open_stream(model: str | os.PathLike[str], calibration: CalibrationSet, options: Mapping[str, Any]) -> Any:
    """The `LayerStream` of a model directory that runs the calibration's sequences; options: device, dtype, isa, num_threads."""
    from gossamer import _core

    longest = max(len(sequence) for group in calibration.groups for sequence in group)
    return _core.LayerStream(
        os.fspath(model),
        options.get("device") or "auto",
        options.get("dtype") or "auto",
        options.get("isa") or "auto",
        options.get("num_threads") or 0,
        max(CHUNK_TOKENS, longest),
        longest,
    )


def chunks_of(calibration: CalibrationSet) -> list[Chunk]:
    """Cut every group into chunks of at most CHUNK_TOKENS tokens (or one longer sequence)."""
    chunks = []
    for group in calibration.groups:
        weight = 1 / (sum(map(len, group)) * len(calibration.groups))
        chunks += [Chunk(tuple(sequences), weight) for sequences in _packed(group)]
    return chunks


def _packed(sequences: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    pack: list[tuple[int, ...]] = []
    for sequence in sequences:
        if pack and (sum(map(len, pack)) + len(sequence) > CHUNK_TOKENS or len(pack) == 256):
            yield pack
            pack = []
        pack.append(sequence)
    if pack:
        yield pack


def embed(stream: Any, chunks: Sequence[Chunk]) -> None:
    """Set every chunk's hidden states to the embeddings of its tokens."""
    stream.load_embedding()
    for chunk in chunks:
        chunk.hidden = stream.embed([list(sequence) for sequence in chunk.sequences])


def inputs_of_layer(
    stream: Any, lengths: Sequence[int], hidden: Matrix, names: Collection[str] = (), xp: Any = np, part: str = "whole"
) -> list[tuple[list[str], Matrix]]:
    """Run the loaded layer over `hidden`, in place; the products with one of the weights `names` (none: all of them), each with its input.

    xp : the module of the inputs, f32 [tokens, k]. CuPy's are never brought to the host.
    part : "whole", or the half of the layer that runs: "attention" or "mlp"
    """
    if xp is np:
        return stream.run_layer(lengths, hidden, True, list(names), part=part)
    captured = stream.run_layer(lengths, hidden, True, list(names), True, part)
    return [(own, floats(xp, xp.from_dlpack(inputs))) for own, inputs in captured]


def run_layer(
    stream: Any,
    chunks: Sequence[Chunk],
    *,
    keep: bool,
    tick: Callable[[], None] | None = None,
    moments: bool = True,
    xp: Any = np,
    part: str = "whole",
) -> dict[str, Moments]:
    """Run the loaded layer, or a half of it, over all chunks; first weight name of every product → moments of its input.

    keep : put the layer's outputs into the chunks; otherwise their hidden states stay as they are
    tick : called after every chunk
    xp : the module of the moments
    """
    found: dict[str, Moments] = {}
    for chunk in chunks:
        hidden = chunk.hidden if keep else chunk.hidden.copy()
        if not moments:
            stream.run_layer(chunk.lengths, hidden, False, part=part)
        for names, inputs in inputs_of_layer(stream, chunk.lengths, hidden, xp=xp, part=part) if moments else ():
            square = inputs.T @ inputs
            if names[0] not in found:
                found[names[0]] = Moments(tuple(names), xp.zeros(square.shape, np.float64))
            found[names[0]].values += square * chunk.weight
        if tick:
            tick()
    return found


def as_replacement(weight: Array) -> npt.NDArray[Any]:
    """A weight as the core takes it: bf16 as its bits."""
    weight = np.ascontiguousarray(weight)
    return weight.view(np.uint16) if weight.dtype.itemsize == 2 and weight.dtype != np.float16 else weight
