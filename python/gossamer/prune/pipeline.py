"""From a model directory to pruned ones: one calibration and one pass over the weights serve every sparsity."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import gossamer
from gossamer.checkpoint import ModelReader, ModelWriter, TensorRecord
from gossamer.errors import CheckpointError
from gossamer.prune.calibration import CalibrationSet, collect_norms
from gossamer.prune.masks import METHODS, keep_masks
from gossamer.prune.select import is_prunable

__all__ = ["PruneReport", "prune"]

Progress = Callable[[str, int, int], None]  # phase ("calibrate" or "prune"), done, total


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
    method: str = "wanda",
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
    method : "wanda" (|W| · ‖X‖₂ within each output row) or "magnitude" (|W| within each output row)
    calibration : token sequences, needed by "wanda"
    runtime_options : keyword arguments of the `Runtime` that calibrates

    Raises
    ------
    ValueError : unknown method, a sparsity out of range, no calibration, a model without prunable tensors.
    FileExistsError, OSError, CheckpointError : as `ModelWriter` and `ModelReader`.
    """
    _check_arguments(outputs, method, calibration)
    report = progress or (lambda phase, done, total: None)
    with ModelReader(model) as reader, ExitStack() as stack:
        records = {name: reader.record(name) for name in reader.names()}
        targets = [name for name, record in records.items() if is_prunable(name, record.shape)]
        if not targets:
            raise CheckpointError(f"{Path(model).name}: no attention or MLP projection found to prune", file=Path(model).name)
        source = {"kind": "gossamer", "name": Path(model).resolve().name, "sha256": reader.manifest.model_id}
        side_files = reader.side_files()
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
        missing = [name for name in targets if not all(writer.has(name) for writer in writers.values())]
        norms: dict[str, npt.NDArray[np.float64]] = {}
        if method == "wanda" and missing:
            assert calibration is not None
            norms = _norms(model, calibration, missing, runtime_options or {}, report)
        for done, name in enumerate(records):
            report("prune", done, len(records))
            _prune_tensor(reader, name, writers, name in targets, norms.get(name))
        report("prune", len(records), len(records))
        reports = []
        for sparsity, writer in writers.items():
            record = {
                "method": method,
                "sparsity": sparsity,
                "calibration_sha256": calibration.sha256 if method == "wanda" and calibration else None,
                "pattern": "unstructured",
            }
            manifest = writer.finish(pruning=record)
            weights = sum(manifest.tensors[name].size for name in targets)
            kept = sum(manifest.tensors[name].nnz or 0 for name in targets)
            reports.append(PruneReport(Path(outputs[sparsity]), method, sparsity, weights - kept, weights))
    return reports


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
    if method == "wanda" and calibration is None:
        raise ValueError("method 'wanda' needs calibration text; pass calibration, or use method 'magnitude'")


def _norms(
    model: str | os.PathLike[str], calibration: CalibrationSet, names: Sequence[str], options: dict[str, Any], report: Progress
) -> dict[str, npt.NDArray[np.float64]]:
    total = calibration.num_sequences
    report("calibrate", 0, total)
    norms = collect_norms(model, calibration, runtime_options=options, progress=lambda done: report("calibrate", done, total))
    report("calibrate", total, total)
    unseen = [name for name in names if name not in norms]
    if unseen:
        raise RuntimeError(f"the calibration saw no input of {unseen[0]} (and {len(unseen) - 1} more); please report this as a bug")
    return norms


def _prune_tensor(
    reader: ModelReader, name: str, writers: Mapping[float, ModelWriter], prunable: bool, norms: npt.NDArray[np.float64] | None
) -> None:
    pending = {sparsity: writer for sparsity, writer in writers.items() if not writer.has(name)}
    if not pending:
        return
    if prunable:
        weight = reader.dense(name)
        for writer, mask in zip(pending.values(), keep_masks(weight, pending, norms), strict=True):
            writer.add_bitmap(name, weight, mask)
        return
    sparse = reader.record(name).encoding == "bitmap"
    for writer in pending.values():
        if sparse:
            writer.add_bitmap(name, reader.bitmap(name))
        else:
            writer.add_dense(name, reader.dense(name))


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
