"""How much each part of a model suffers when it alone is pruned, measured at the model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gossamer.checkpoint import ModelReader
from gossamer.checkpoint.dtypes import Array
from gossamer.evaluate.divergence import log_softmax
from gossamer.prune.arrays import array_module, as_stored, floats
from gossamer.prune.calibration import CalibrationSet
from gossamer.prune.hidden import as_replacement, inputs_of_layer
from gossamer.prune.masks import keep_masks

__all__ = ["PROBE_LENGTH", "PROBE_TOKENS", "measure_sensitivity", "probe_sequences"]

Matrix = npt.NDArray[np.float32]

PROBE_TOKENS = 1024  # every part's hidden states of so many tokens are kept, and run through all layers after it
PROBE_LENGTH = 256
_ROW_STEP = 4  # of the tokens every fourth is predicted: the head is most of a small model


def probe_sequences(calibration: CalibrationSet) -> list[list[int]]:
    """A few short sequences, the same number from every group; a function of the calibration alone."""
    share = max(1, PROBE_TOKENS // PROBE_LENGTH // len(calibration.groups))
    return [list(group[(2 * i + 1) * len(group) // (2 * share)][:PROBE_LENGTH]) for group in calibration.groups for i in range(share)]


def measure_sensitivity(
    stream: Any,
    reader: ModelReader,
    parts: Mapping[int, Sequence[Sequence[str]]],
    sequences: Sequence[Sequence[int]],
    sparsity: float,
    tick: Callable[[], None],
) -> dict[tuple[str, ...], float]:
    """Part → the Kullback-Leibler divergence of the predictions from the dense model's, nats per token, with that part alone pruned.

    Every part is pruned by Wanda to `sparsity`; its hidden states go through the dense layers behind it. All parts of all layers are on
    their way together, so every layer is loaded once and once more for each of its parts.

    Parameters
    ----------
    stream : `LayerStream` of the dense model
    parts : layer → its parts, each the names of the weights that are pruned together
    tick : called after every layer
    """
    xp = array_module(stream.device)
    lengths = [len(sequence) for sequence in sequences]
    stream.load_embedding()
    dense: Matrix = stream.embed([list(sequence) for sequence in sequences])
    probes: dict[tuple[str, ...], Matrix] = {}
    for layer in range(stream.num_layers):
        before = dense.copy()
        stream.load_layer(layer, {})
        own_names = [name for part in parts.get(layer, ()) for name in part]
        captured = inputs_of_layer(stream, lengths, dense, own_names, xp) if own_names else stream.run_layer(lengths, dense, False)
        for hidden in probes.values():
            stream.run_layer(lengths, hidden, False)
        norms = {name: xp.sqrt((inputs * inputs).sum(axis=0)) for names, inputs in captured for name in names}
        for part in parts.get(layer, ()):
            stream.load_layer(layer, {name: as_replacement(_wanda(xp, reader.dense(name), norms[name], sparsity)) for name in part})
            hidden = before.copy()
            stream.run_layer(lengths, hidden, False)
            probes[tuple(part)] = hidden
        tick()
    stream.load_head()

    def predictions(hidden: Matrix) -> Matrix:
        return log_softmax(xp.asarray(stream.head(np.ascontiguousarray(hidden[::_ROW_STEP]))))

    reference = predictions(dense)
    found = {part: _divergence(reference, predictions(hidden)) for part, hidden in probes.items()}
    tick()
    return found


def _wanda(xp: Any, stored: Array, norms: npt.NDArray[np.float32], sparsity: float) -> Array:
    weight = floats(xp, stored)
    (keep,) = keep_masks(weight, [sparsity], norms)
    return as_stored(weight * keep, stored.dtype)


def _divergence(reference: Matrix, other: Matrix) -> float:
    """Mean over rows of KL(reference ‖ other), both logarithms of probabilities [rows, vocab_size]."""
    return float((np.exp(reference) * (reference - other)).sum(dtype=np.float64)) / len(reference)
