"""How far the model that is being pruned has drifted from the dense one, and what its next layer can do about it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gossamer.prune.hidden import Chunk, inputs_of_layer

__all__ = ["Drift", "measure_against"]

Matrix = npt.NDArray[np.float32]
Moments = npt.NDArray[np.float64]


@dataclass
class Drift:
    """Weighted means over tokens for the input x of a linear in the pruned model.

    Attributes
    ----------
    moments : f64 [k, k], E[x xᵀ]
    of_inputs : f64 [k, k], E[x (x̄ - x)ᵀ] with x̄ the dense model's input of that linear; None for a linear that adds to the hidden states
    of_hidden : f64 [k, h], E[x (ȳ - y)ᵀ] with ȳ, y the hidden states after it in the dense model and, not yet pruned, in this one; or None
    """

    moments: Moments
    of_inputs: Moments | None = None
    of_hidden: Moments | None = None

    def correction(self, weight: Matrix) -> Matrix:
        """E[x dᵀ], f32 [k, m], where d is what is missing of the outputs of `weight` [m, k]."""
        if self.of_hidden is not None:
            return self.of_hidden.astype(np.float32)
        assert self.of_inputs is not None
        return self.of_inputs.astype(np.float32) @ weight.T


def measure_against(
    dense_stream: Any,
    dense: Sequence[Chunk],
    stream: Any,
    chunks: Sequence[Chunk],
    *,
    names: Collection[str],
    writers: tuple[str, ...],
    part: str,
    tick: Callable[[], None] | None = None,
    xp: Any = np,
) -> dict[str, Drift]:
    """Run the halves of the layers that both streams hold, side by side; weight name → drift at its input, for `names`.

    The hidden states of `dense` move on, those of `chunks` stay.

    writers : ends of the names of linears whose outputs are added to the hidden states
    part : "attention" or "mlp", the half that `names` are in
    xp : the module of what is found
    """
    readers = [name for name in names if not name.endswith(writers)]
    found: dict[str, Drift] = {}
    shared: dict[str, str] = {}  # weight name → the first of those with the same input
    for clean, chunk in zip(dense, chunks, strict=True):
        goal, hidden = clean.hidden, chunk.hidden.copy()
        goals: dict[str, Matrix] = {}
        if readers:
            goals = {own[0]: inputs for own, inputs in inputs_of_layer(dense_stream, clean.lengths, goal, readers, xp, part)}
        else:
            dense_stream.run_layer(clean.lengths, goal, False, part=part)
        if not names:
            continue
        captured = inputs_of_layer(stream, chunk.lengths, hidden, names, xp, part)
        missing = xp.asarray(goal) - xp.asarray(hidden)
        for own, inputs in captured:
            first = own[0]
            shared |= dict.fromkeys((name for name in own if name in names), first)
            drift = found.setdefault(first, Drift(xp.zeros((inputs.shape[1],) * 2)))
            drift.moments += (inputs.T @ inputs) * chunk.weight
            if first.endswith(writers):
                if drift.of_hidden is None:
                    drift.of_hidden = xp.zeros((inputs.shape[1], hidden.shape[1]))
                drift.of_hidden += (inputs.T @ missing) * chunk.weight
            else:
                if drift.of_inputs is None:
                    drift.of_inputs = xp.zeros((inputs.shape[1],) * 2)
                drift.of_inputs += (inputs.T @ (goals[first] - inputs)) * chunk.weight
        if tick:
            tick()
    return {name: found[first] for name, first in shared.items()}
