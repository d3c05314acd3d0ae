"""Layer after layer: moments of the inputs, the layer pruned, and the hidden states moved on through what pruning left."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gossamer.checkpoint import ModelReader, ScaledMatrix
from gossamer.checkpoint.dtypes import Array
from gossamer.prune.alps import alps
from gossamer.prune.arrays import array_module, as_stored, floats, module_of, to_host
from gossamer.prune.calibration import CalibrationSet
from gossamer.prune.drift import Drift, measure_against
from gossamer.prune.hidden import Chunk, as_replacement, chunks_of, embed, open_stream, run_layer
from gossamer.prune.layer_store import LayerStore
from gossamer.prune.masks import keep_masks, pattern_mask
from gossamer.prune.sparsegpt import sparsegpt
from gossamer.quantize import Quantizer

__all__ = ["Recipe", "layer_of", "prune_layers", "prune_weight"]

Matrix = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]  # done, total

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_WRITERS = ("o_proj.weight", "out_proj.weight", "down_proj.weight", "fc2.weight")  # what they make is added to the hidden states
_ATTENTION = ".self_attn."


@dataclass(frozen=True)
class Recipe:
    """How to prune.

    Attributes
    ----------
    method : "wanda", "sparsegpt" or "alps"
    sparsities : weight name → share of it to drop
    pattern : (n, m) for n zeros in every m columns, instead of the sparsities
    correction : how much of the error that pruning made so far a layer should undo, 0 to 1; other methods than "alps" cannot
    quantizer : rounds what pruning left, so that later layers see that, too, and can undo part of it
    """

    method: str
    sparsities: Mapping[str, float]
    pattern: tuple[int, int] | None = None
    correction: float = 0.0
    quantizer: Quantizer = field(default_factory=Quantizer)


def layer_of(name: str) -> int:
    """The decoder layer that a prunable weight belongs to."""
    found = _LAYER.search(name)
    if found is None:
        raise ValueError(f"{name} is not in a layer")
    return int(found[1])


def prune_weight(
    method: str,
    weight: Matrix,
    moments: npt.NDArray[np.float64],
    sparsity: float,
    *,
    pattern: tuple[int, int] | None = None,
    correction: Matrix | None = None,
) -> Matrix:
    """A weight [m, k] pruned by `method`, given the second moments of its inputs [k, k]. What is zero stays zero.

    All arrays are of one module, numpy or CuPy, and so is the result.
    """
    if method == "wanda":
        xp = module_of(weight)
        norms = xp.sqrt(xp.diagonal(moments))
        mask = keep_masks(weight, [sparsity], norms)[0] if pattern is None else pattern_mask(weight, pattern, norms)
        return xp.where(mask, weight, np.float32(0))
    if method == "sparsegpt":
        return sparsegpt(weight, moments, sparsity, pattern=pattern)
    return alps(weight, moments, sparsity, pattern=pattern, correction=correction)


def prune_layers(
    model: str | os.PathLike[str],
    reader: ModelReader,
    recipe: Recipe,
    calibration: CalibrationSet,
    store: LayerStore,
    *,
    runtime_options: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Prune the weights that the recipe names and leave every layer's in `store`.

    Linear algebra is done where the layers run, on a GPU by CuPy (`array_module`).

    Memory: one layer with its moments, and the hidden states of the calibration (twice where the recipe corrects). Layers that are in the
    store already only move the hidden states on, so a run that was interrupted ends with the same bits.
    """
    _Run(model, reader, recipe, calibration, store, runtime_options, progress).run()


class _Run:
    def __init__(
        self,
        model: str | os.PathLike[str],
        reader: ModelReader,
        recipe: Recipe,
        calibration: CalibrationSet,
        store: LayerStore,
        runtime_options: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        self._reader, self._recipe, self._store, self._progress = reader, recipe, store, progress
        self._open = lambda: open_stream(model, calibration, runtime_options)
        self._chunks = chunks_of(calibration)
        self._names: dict[int, list[str]] = {}
        for name in recipe.sparsities:
            self._names.setdefault(layer_of(name), []).append(name)
        self._last = max(self._names)
        self._corrects = recipe.correction > 0 and reader.config.get("do_layer_norm_before", True)
        self._done, self._total = 0, (self._last + 1) * len(self._chunks) * (6 if self._corrects else 2)

    def run(self) -> None:
        if all(self._store.has(layer) for layer in self._names):
            return
        self._progress(0, self._total)
        self._stream = self._open()
        self._xp = array_module(self._stream.device)
        embed(self._stream, self._chunks)
        if self._corrects:
            self._dense_stream = self._open()
            self._dense = [Chunk(chunk.sequences, chunk.weight, chunk.hidden.copy()) for chunk in self._chunks]
        for layer in range(self._last + 1):
            pruned: dict[str, Array] = {}
            is_new = layer in self._names and not self._store.has(layer)
            if is_new:
                pruned = self._prune_corrected(layer) if self._corrects else self._prune(layer)
                self._store.save(layer, pruned)
            elif layer in self._names:
                pruned = {name: packed.dense() for name, packed in self._store.load(layer).items()}
            if layer < self._last and not (is_new and self._corrects):
                self._advance(layer, pruned)
            self._done = (layer + 1) * self._total // (self._last + 1)
        self._progress(self._total, self._total)

    def _tick(self, count: int = 1) -> None:
        self._done += count
        self._progress(min(self._done, self._total), self._total)

    def _advance(self, layer: int, pruned: Mapping[str, Array]) -> None:
        """Move the hidden states through what pruning left of the layer; those of the dense model, too, where they are kept."""
        _load(self._stream, layer, pruned)
        run_layer(self._stream, self._chunks, keep=True, tick=self._tick, moments=False)
        if self._corrects:
            _load(self._dense_stream, layer, {})
            run_layer(self._dense_stream, self._dense, keep=True, tick=self._tick, moments=False)

    def _prune(self, layer: int) -> dict[str, Array]:
        """All inputs as the dense layer makes them from the hidden states that pruning left."""
        _load(self._stream, layer, {})
        found = run_layer(self._stream, self._chunks, keep=False, tick=self._tick, xp=self._xp)
        moments = {name: shared.values for shared in found.values() for name in shared.weight_names}
        return {name: self._pruned(name, moments[name]) for name in self._names[layer] if _is_seen(name, moments)}

    def _prune_corrected(self, layer: int) -> dict[str, Array]:
        """First attention, then the MLP with the inputs that pruned attention leaves; each against what the dense model has there.

        Moves all hidden states on, half a layer at a time.
        """
        result: dict[str, Array] = {}
        _load(self._dense_stream, layer, {})
        _load(self._stream, layer, {})
        for part in ("attention", "mlp"):
            names = [name for name in self._names[layer] if (_ATTENTION in name) == (part == "attention")]
            found = measure_against(
                self._dense_stream,
                self._dense,
                self._stream,
                self._chunks,
                names=names,
                writers=_WRITERS,
                part=part,
                tick=lambda: self._tick(2),
                xp=self._xp,
            )
            result |= {name: self._pruned(name, found[name].moments, found[name]) for name in names if _is_seen(name, found)}
            if part == "attention" or layer < self._last:
                if names:
                    _load(self._stream, layer, result)
                run_layer(self._stream, self._chunks, keep=True, tick=self._tick, moments=False, part=part)
        return result

    def _pruned(self, name: str, moments: npt.NDArray[np.float64], drift: Drift | None = None) -> Array:
        if not bool(self._xp.isfinite(moments).all()):
            raise ValueError(f"the inputs of {name} are not finite on the calibration text: the weights before it are damaged or overflow")
        stored = self._reader.dense(name)
        weight = floats(self._xp, stored)
        recipe = self._recipe
        pruned = prune_weight(
            recipe.method,
            weight,
            moments,
            recipe.sparsities[name],
            pattern=recipe.pattern,
            correction=None if drift is None else drift.correction(weight) * recipe.correction,
        )
        if recipe.quantizer.values is None:
            return as_stored(pruned, stored.dtype)
        rounded = recipe.quantizer(to_host(pruned), "linear")
        assert isinstance(rounded, ScaledMatrix)
        return rounded.dense()


def _load(stream: Any, layer: int, replacements: Mapping[str, Array]) -> None:
    stream.load_layer(layer, {name: as_replacement(weight) for name, weight in replacements.items()})


def _is_seen(name: str, found: Mapping[str, object]) -> bool:
    if name not in found:
        raise RuntimeError(f"the calibration saw no input of {name}; please report this as a bug")
    return True
