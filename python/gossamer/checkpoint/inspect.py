"""What a model directory holds: per-tensor sizes and sparsity, totals, and how the densities are distributed."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.checkpoint.bitmap import BitmapTensor, pack_scaled
from gossamer.checkpoint.dtypes import STORED_DTYPES, Array, is_nonzero
from gossamer.checkpoint.reader import ModelReader
from gossamer.checkpoint.scaled import ScaledMatrix

__all__ = ["ModelSummary", "TensorSummary", "histogram", "plot_histogram", "summarize"]

BUCKETS = 20


@dataclass(frozen=True)
class TensorSummary:
    """One tensor; `zeros` counts what is not stored or is zero, None where the data was not read; `bytes` is what it takes on disk."""

    name: str
    encoding: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    zeros: int | None
    bytes: int

    @property
    def sparsity(self) -> float | None:
        return None if self.zeros is None else self.zeros / max(1, self.size)


@dataclass(frozen=True)
class ModelSummary:
    architecture: str
    model_id: str
    producer: str
    source: dict[str, Any]
    pruning: dict[str, Any] | None
    tensors: list[TensorSummary]
    file_bytes: int

    @property
    def size(self) -> int:
        """Weights, zeros included."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def dense_bytes(self) -> int:
        """What the tensors would take if all were dense, of the dtypes they have."""
        return sum(dense_bytes(tensor.dtype, tensor.size) for tensor in self.tensors)

    def as_json(self) -> dict[str, Any]:
        tensors = [{**asdict(tensor), "sparsity": tensor.sparsity} for tensor in self.tensors]
        sparse = [t for t in self.tensors if t.encoding == "bitmap"]
        totals = {
            "tensors": len(self.tensors),
            "weights": self.size,
            "tensor_bytes": sum(t.bytes for t in self.tensors),
            "dense_bytes": self.dense_bytes,
            "file_bytes": self.file_bytes,
            "bitmap_weights": sum(t.size for t in sparse),
            "bitmap_zeros": sum(t.zeros or 0 for t in sparse),
        }
        head = {key: getattr(self, key) for key in ("architecture", "model_id", "producer", "source", "pruning")}
        return {**head, "totals": totals, "tensors": tensors}


def summarize(model: str | os.PathLike[str], *, read_data: bool = True) -> ModelSummary:
    """Summarise a model directory. With `read_data` every tensor is read, verified, and its zeros counted; else not."""
    with ModelReader(model) as reader:
        manifest = reader.manifest
        tensors = []
        for name, record in manifest.tensors.items():
            zeros = None if record.nnz is None else record.size - record.nnz
            if read_data:
                zeros = record.size - _nonzeros(reader.stored(name))
            tensors.append(TensorSummary(name, record.encoding, record.dtype, record.shape, record.size, zeros, record.stored_bytes))
        return ModelSummary(
            architecture=manifest.architecture,
            model_id=manifest.model_id,
            producer=manifest.producer,
            source=manifest.source,
            pruning=manifest.pruning,
            tensors=tensors,
            file_bytes=sum(file.bytes for file in manifest.files.values()),
        )


def _nonzeros(stored: Array | BitmapTensor | ScaledMatrix) -> int:
    if isinstance(stored, ScaledMatrix):
        return int(np.count_nonzero(pack_scaled(stored).mask()))
    if isinstance(stored, BitmapTensor):
        if stored.scaled_dtype is not None:
            return int(np.count_nonzero(is_nonzero(stored.dense())))
        stored = stored.values
    return int(np.count_nonzero(is_nonzero(stored)))


def dense_bytes(dtype: str, size: int) -> int:
    """Bytes of so many values, without scales."""
    return (size + 1) // 2 if dtype == "i4" else size * STORED_DTYPES[dtype].itemsize


def histogram(tensors: list[TensorSummary]) -> list[int]:
    """How many weights lie in matrices of a density from 0-5 % to 95-100 %."""
    out = [0] * BUCKETS
    for tensor in tensors:
        if len(tensor.shape) == 2 and tensor.sparsity is not None:
            out[min(BUCKETS - 1, int((1 - tensor.sparsity) * BUCKETS))] += tensor.size
    return out


def plot_histogram(summary: ModelSummary, path: Path) -> None:
    """Draw the histogram as a PNG."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("The plot needs matplotlib: pip install 'gossamer[plot]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    centres = (np.arange(BUCKETS) + 0.5) * 100 / BUCKETS
    axes.bar(centres, np.array(histogram(summary.tensors)) / 1e6, width=90 / BUCKETS)
    axes.set(xlim=(0, 100), xlabel="density of the matrix, %", ylabel="weights, millions", title=summary.architecture)
    figure.tight_layout()
    figure.savefig(path, dpi=150, format="png")
    pyplot.close(figure)
