"""The layers that a run has pruned so far, on disk beside the model it makes, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.checkpoint import DTYPES, BitmapTensor, dtype_name, pack
from gossamer.checkpoint.dtypes import Array

__all__ = ["LayerStore"]

_KEY = "key"
_ALLOCATION = "allocation.json"


class LayerStore:
    """Pruned layers of one destination, in `.NAME.layers/` beside it; the destination's lock is held by its `ModelWriter`.

    Parameters
    ----------
    destination : the model directory that is being made
    key : identity of the run; what another run left is removed
    """

    def __init__(self, destination: str | os.PathLike[str], key: str) -> None:
        path = Path(os.path.realpath(destination))
        self._path = path.parent / f".{path.name}.layers"
        self._key = key

    def open(self) -> None:
        """Make the directory, or find the one that an interrupted run with the same key left."""
        if not self._is_ours():
            self.remove()
            self._path.mkdir(parents=True)
            self._write(_KEY, self._key.encode())

    def _is_ours(self) -> bool:
        try:
            return (self._path / _KEY).read_text() == self._key
        except OSError:
            return False

    def has(self, layer: int) -> bool:
        return (self._path / _name(layer)).is_file()

    def save(self, layer: int, weights: dict[str, Array]) -> None:
        """Keep a layer's pruned weights; the layer is there whole or not at all."""
        parts: dict[str, Any] = {}
        for name, weight in weights.items():
            packed = pack(weight)
            parts[f"{name}/dtype"] = np.array(dtype_name(packed.values))
            parts[f"{name}/shape"] = np.array(packed.shape, np.int64)
            parts[f"{name}/values"] = packed.values.view(np.uint8)
            parts[f"{name}/bitmask"] = packed.bitmask
            parts[f"{name}/row_offsets"] = packed.row_offsets
        partial = self._path / f"{_name(layer)}.partial"
        with partial.open("wb") as file:
            np.savez(file, **parts)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._path / _name(layer))

    def load(self, layer: int) -> dict[str, BitmapTensor]:
        """Weight name → what `save` was given, as bitmaps."""
        with np.load(self._path / _name(layer), allow_pickle=False) as parts:
            names = [key.removesuffix("/shape") for key in parts.files if key.endswith("/shape")]
            return {
                name: BitmapTensor(
                    shape=tuple(parts[f"{name}/shape"].tolist()),
                    values=parts[f"{name}/values"].view(DTYPES[str(parts[f"{name}/dtype"])]),
                    bitmask=parts[f"{name}/bitmask"],
                    row_offsets=parts[f"{name}/row_offsets"],
                )
                for name in names
            }

    def save_allocation(self, sparsities: dict[str, float]) -> None:
        """Keep what was decided before the first layer: weight name → sparsity."""
        self._write(_ALLOCATION, json.dumps(sparsities).encode())

    def load_allocation(self) -> dict[str, float] | None:
        path = self._path / _ALLOCATION
        return json.loads(path.read_text()) if path.is_file() else None

    def _write(self, name: str, data: bytes) -> None:
        partial = self._path / f"{name}.partial"
        partial.write_bytes(data)
        partial.rename(self._path / name)

    def remove(self) -> None:
        if self._path.is_dir():
            shutil.rmtree(self._path)


def _name(layer: int) -> str:
    return f"layer-{layer:05d}.npz"
