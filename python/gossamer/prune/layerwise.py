"""Layer after layer: moments of the inputs, the layer pruned, and the hidden states moved on through what pruning left."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gossamer.checkpoint import ModelReader
from gossamer.checkpoint.dtypes import Array
from gossamer.prune.calibration import CalibrationSet
from gossamer.prune.hidden import as_replacement, chunks_of, embed, open_stream, run_layer
from gossamer.prune.layer_store import LayerStore
from gossamer.prune.masks import keep_masks
from gossamer.prune.sparsegpt import sparsegpt

__all__ = ["layer_of", "prune_layers", "prune_weight"]

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def layer_of(name: str) -> int:
    """The decoder layer that a prunable weight belongs to."""
    found = _LAYER.search(name)
    if found is None:
        raise ValueError(f"{name} is not in a layer")
    return int(found[1])


def prune_weight(
    method: str, weight: npt.NDArray[np.float32], moments: npt.NDArray[np.float64], sparsity: float
) -> npt.NDArray[np.float32]:
    """A weight [m, k] pruned by `method`, given the second moments of its inputs [k, k]. What is zero stays zero."""
    if method == "wanda":
        (mask,) = keep_masks(weight, [sparsity], np.sqrt(np.diagonal(moments)))
        return np.where(mask, weight, np.float32(0))
    return sparsegpt(weight, moments, sparsity)


def prune_layers(
    model: str | os.PathLike[str],
    reader: ModelReader,
    sparsities: Mapping[str, float],
    method: str,
    calibration: CalibrationSet,
    store: LayerStore,
    *,
    runtime_options: Mapping[str, Any],
    progress: Callable[[int, int], None],
) -> None:
    """Prune the weights named in `sparsities`, each to its own, and leave every layer's in `store`.

    Memory: one layer with its moments, and the hidden states of the calibration. Layers that are in the store already only move the hidden
    states on, so a run that was interrupted ends with the same bits.
    """
    names: dict[int, list[str]] = {}
    for name in sparsities:
        names.setdefault(layer_of(name), []).append(name)
    last = max(names)
    if all(store.has(layer) for layer in names):
        return
    stream = open_stream(model, calibration, runtime_options)
    chunks = chunks_of(calibration)
    done, total = 0, 2 * len(chunks) * (last + 1)

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    progress(0, total)
    embed(stream, chunks)
    for layer in range(last + 1):
        if layer in names and not store.has(layer):
            stream.load_layer(layer, {})
            moments = run_layer(stream, chunks, keep=False, tick=tick)
            by_weight = {name: found.values for found in moments.values() for name in found.weight_names}
            store.save(layer, _pruned(reader, names[layer], sparsities, method, by_weight))
        else:
            done += len(chunks)
        if layer < last:
            replacements = {name: as_replacement(packed.dense()) for name, packed in store.load(layer).items()} if layer in names else {}
            stream.load_layer(layer, replacements)
            run_layer(stream, chunks, keep=True, tick=tick, moments=False)
    progress(total, total)


def _pruned(
    reader: ModelReader,
    names: Sequence[str],
    sparsities: Mapping[str, float],
    method: str,
    moments: Mapping[str, npt.NDArray[np.float64]],
) -> dict[str, Array]:
    result: dict[str, Array] = {}
    for name in names:
        if name not in moments:
            raise RuntimeError(f"the calibration saw no input of {name}; please report this as a bug")
        if not np.isfinite(moments[name]).all():
            raise ValueError(f"the inputs of {name} are not finite on the calibration text: the weights before it are damaged or overflow")
        stored = reader.dense(name)
        result[name] = prune_weight(method, stored.astype(np.float32), moments[name], sparsities[name]).astype(stored.dtype)
    return result
