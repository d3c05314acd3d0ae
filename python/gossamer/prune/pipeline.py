"""From a model directory to pruned ones, one for every sparsity asked for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gossamer
from gossamer.checkpoint import ModelReader, ModelWriter, TensorRecord
from gossamer.errors import CheckpointError
from gossamer.prune.calibration import CalibrationSet
from gossamer.prune.layer_store import LayerStore
from gossamer.prune.layerwise import Recipe, layer_of, prune_layers
from gossamer.prune.masks import METHODS, keep_masks
from gossamer.prune.select import is_prunable

__all__ = ["PruneReport", "prune"]

Progress = Callable[[str, int, int], None]  # phase ("prune" or "write"), done, total

_CORRECTION = 0.5  # all of it fits the calibration text too closely: the held-out texts were worse than with half, at 50 % of SmolLM2


@dataclass(frozen=True)
class PruneReport:
    """What came out: the directory, what was asked for, and the zeros among the weights of the pruned linears."""

    directory: Path
    method: str
    sparsity: float
    zeros: int
    weights: int

    @property
    def actual_sparsity(self) -> float:
        return self.zeros / self.weights


def prune(
    model: str | os.PathLike[str],
    outputs: Mapping[float, str | os.PathLike[str]],
    *,
    method: str = "auto",
    calibration: CalibrationSet | None = None,
    overwrite: bool = False,
    allow_nonfinite: bool = False,
    runtime_options: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[PruneReport]:
    """Prune the projections of attention and MLP of a model directory; everything else is copied as it is.

    Parameters
    ----------
    model : a directory made by `gossamer convert` (or by `prune`: then what is zero stays zero)
    outputs : sparsity → directory to make. Each is written atomically; an interrupted run resumes.
    method : "auto" (ALPS that also undoes half of what pruning did so far), "alps", "sparsegpt", "wanda" (|W| · ‖X‖₂ within each output
        row) or "magnitude" (|W| within each output row)
    calibration : token sequences, needed by all but "magnitude"
    runtime_options : keyword arguments of the `Runtime` that calibrates

    Raises
    ------
    ValueError : unknown method, a sparsity out of range, no calibration, a model without prunable tensors.
    FileExistsError, OSError, CheckpointError : as `ModelWriter` and `ModelReader`.
    """
    _check_arguments(outputs, method, calibration)
    report = progress or (lambda phase, done, total: None)
    with ModelReader(model) as reader:
        records = {name: reader.record(name) for name in reader.names()}
        targets = [name for name, record in records.items() if is_prunable(name, record.shape)]
        if not targets:
            raise CheckpointError(f"{Path(model).name}: no attention or MLP projection found to prune", file=Path(model).name)
        source = {"kind": "gossamer", "name": Path(model).resolve().name, "sha256": reader.manifest.model_id}
        side_files = reader.side_files()
        with ExitStack() as stack:  # every destination is checked and locked before the work begins
            writers = {
                sparsity: stack.enter_context(
                    ModelWriter(
                        directory,
                        side_files=side_files,
                        source=source,
                        producer=f"gossamer {gossamer.__version__}",
                        overwrite=overwrite,
                        resume_key=_resume_key(source["sha256"], method, sparsity, calibration),
                        expected_bytes=_expected_bytes(records, set(targets), sparsity, side_files),
                        allow_nonfinite=allow_nonfinite,
                    )
                )
                for sparsity, directory in outputs.items()
            }
            reports = []
            for sparsity, writer in writers.items():
                store = LayerStore(outputs[sparsity], _resume_key(source["sha256"], method, sparsity, calibration))
                if method != "magnitude" and not all(writer.has(name) for name in targets):
                    assert calibration is not None
                    store.open()
                    prune_layers(
                        model,
                        reader,
                        _recipe(method, dict.fromkeys(targets, sparsity)),
                        calibration,
                        store,
                        runtime_options=runtime_options or {},
                        progress=lambda done, total: report("prune", done, total),
                    )
                _write(reader, records, set(targets), writer, sparsity, None if method == "magnitude" else store, report)
                manifest = writer.finish(
                    pruning={
                        "method": method,
                        "sparsity": sparsity,
                        "calibration_sha256": calibration.sha256 if method != "magnitude" and calibration else None,
                        "pattern": "unstructured",
                    }
                )
                store.remove()
                weights = sum(manifest.tensors[name].size for name in targets)
                kept = sum(manifest.tensors[name].nnz or 0 for name in targets)
                reports.append(PruneReport(Path(outputs[sparsity]), method, sparsity, weights - kept, weights))
    return reports


def _recipe(method: str, sparsities: Mapping[str, float]) -> Recipe:
    return Recipe("alps", sparsities, correction=_CORRECTION) if method == "auto" else Recipe(method, sparsities)


def _check_arguments(outputs: Mapping[float, Any], method: str, calibration: CalibrationSet | None) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if not outputs:
        raise ValueError("outputs must name at least one sparsity and directory")
    for sparsity in outputs:
        if not 0 < sparsity < 1:
            raise ValueError(f"sparsity must be greater than 0 and less than 1, not {sparsity}")
    if len({os.path.abspath(path) for path in outputs.values()}) != len(outputs):
        raise ValueError("outputs must name a different directory for every sparsity")
    if method != "magnitude" and calibration is None:
        raise ValueError(f"method {method!r} needs calibration text; pass calibration, or use method 'magnitude'")


def _write(
    reader: ModelReader,
    records: Mapping[str, TensorRecord],
    targets: set[str],
    writer: ModelWriter,
    sparsity: float,
    store: LayerStore | None,
    report: Progress,
) -> None:
    """Write every tensor in the reader's order: the pruned ones from the store (or by magnitude, without one), the rest as they are."""
    layer, weights = -1, {}
    for done, name in enumerate(records):
        report("write", done, len(records))
        if writer.has(name):
            continue
        if name in targets and store is None:
            weight = reader.dense(name)
            writer.add_bitmap(name, weight, keep_masks(weight, [sparsity])[0])
        elif name in targets and store is not None:
            if layer != layer_of(name):
                layer = layer_of(name)
                weights = store.load(layer)
            writer.add_bitmap(name, weights[name])
        elif records[name].encoding == "bitmap":
            writer.add_bitmap(name, reader.bitmap(name))
        else:
            writer.add_dense(name, reader.dense(name))
    report("write", len(records), len(records))


def _resume_key(model_id: str, method: str, sparsity: float, calibration: CalibrationSet | None) -> str:
    parts = [model_id, method, repr(float(sparsity)), calibration.sha256 if calibration else "", gossamer.__version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _expected_bytes(records: Mapping[str, TensorRecord], targets: set[str], sparsity: float, side_files: Mapping[str, bytes]) -> int:
    """An upper bound of what one output takes on disk."""
    total = sum(map(len, side_files.values())) + (1 << 20)
    for name, record in records.items():
        value_bytes = 4 if record.dtype == "f32" else 2
        if name in targets:
            rows, cols = record.shape
            total += round(record.size * (1 - sparsity)) * value_bytes + rows * (value_bytes + 8 + (cols + 7) // 8)
        else:
            total += record.size * value_bytes
    return total
