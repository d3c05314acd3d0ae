"""From a model directory to pruned ones, one for every sparsity asked for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import gossamer
from gossamer.checkpoint import ModelReader, ModelWriter, TensorRecord, pack
from gossamer.convert.architectures import HEAD
from gossamer.convert.values import role_of
from gossamer.errors import CheckpointError
from gossamer.prune.allocation import allocate, parts_of
from gossamer.prune.budget import stored_bytes
from gossamer.prune.calibration import CalibrationSet
from gossamer.prune.hidden import open_stream
from gossamer.prune.layer_store import LayerStore
from gossamer.prune.layerwise import Recipe, layer_of, prune_layers
from gossamer.prune.masks import ALLOCATIONS, METHODS, keep_masks, pattern_mask
from gossamer.prune.select import select
from gossamer.prune.sensitivity import measure_sensitivity, probe_sequences
from gossamer.quantize import Quantizer, Stored

__all__ = ["PruneReport", "prune"]

Progress = Callable[[str, int, int], None]  # phase ("allocate", "prune" or "write"), done, total

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


@dataclass(frozen=True)
class _Plan:
    """What is done to every output alike."""

    method: str
    calibration: CalibrationSet | None
    pattern: tuple[int, int] | None
    keep: tuple[str, ...]
    allocation: str
    quantizer: Quantizer

    @property
    def needs_calibration(self) -> bool:
        return self.method != "magnitude"

    @property
    def spreads(self) -> bool:
        """Whether every part of the model gets a sparsity of its own."""
        return self.allocation == "sensitivity" or (self.allocation == "auto" and self.method == "auto" and self.pattern is None)

    def recipe(self, sparsities: Mapping[str, float]) -> Recipe:
        if self.method == "auto":
            return Recipe("alps", sparsities, self.pattern, _CORRECTION, self.quantizer)
        return Recipe(self.method, sparsities, self.pattern, quantizer=self.quantizer)

    def resume_key(self, model_id: str, sparsity: float) -> str:
        calibration = self.calibration.sha256 if self.calibration else ""
        parts = [
            model_id,
            self.method,
            repr(float(sparsity)),
            calibration,
            self.pattern,
            self.keep,
            self.spreads,
            astuple(self.quantizer),
            gossamer.__version__,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def record(self, sparsity: float) -> dict[str, Any]:
        """The manifest's entry."""
        calibration = self.calibration.sha256 if self.needs_calibration and self.calibration else None
        pattern = f"{self.pattern[1] - self.pattern[0]}:{self.pattern[1]}" if self.pattern else "unstructured"
        entry: dict[str, Any] = {"method": self.method, "sparsity": sparsity, "calibration_sha256": calibration, "pattern": pattern}
        return entry | ({"allocation": "sensitivity"} if self.spreads else {}) | ({"keep": list(self.keep)} if self.keep else {})


def prune(
    model: str | os.PathLike[str],
    outputs: Mapping[float, str | os.PathLike[str]],
    *,
    method: str = "auto",
    calibration: CalibrationSet | None = None,
    pattern: tuple[int, int] | None = None,
    keep: Sequence[str] = (),
    allocation: str = "auto",
    quantizer: Quantizer | None = None,
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
    pattern : (n, m), n zeros in every m columns of a row; the only output's sparsity must be n / m
    keep : shell patterns of the names of projections that stay as they are; the sparsity is that of the others
    allocation : "uniform" (every projection the same sparsity), "sensitivity" (attention and MLP of every layer as much as they bear, the
        whole as asked for) or "auto" (sensitivity with method "auto" without a pattern, else uniform)
    quantizer : rounds the linears, pruned or kept, and the head; later layers are pruned with what rounding left of the pruned ones before
        them. None: nothing is rounded
    runtime_options : keyword arguments of the `Runtime` that calibrates

    Raises
    ------
    ValueError : unknown method or allocation, a sparsity or pattern out of range, no calibration, a keep pattern that matches nothing.
    CheckpointError : a model without prunable tensors, and as `ModelWriter` and `ModelReader`, like FileExistsError and OSError.
    """
    plan = _Plan(method, calibration, pattern, tuple(keep), allocation, quantizer or Quantizer())
    _check_arguments(outputs, plan)
    report = progress or (lambda phase, done, total: None)
    with ModelReader(model) as reader:
        records = {name: reader.record(name) for name in reader.names()}
        targets = select({name: record.shape for name, record in records.items()}, keep)
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
                        resume_key=plan.resume_key(source["sha256"], sparsity),
                        expected_bytes=stored_bytes(records, set(targets), sparsity, side_files),
                        allow_nonfinite=allow_nonfinite,
                    )
                )
                for sparsity, directory in outputs.items()
            }
            reports = []
            for sparsity, writer in writers.items():
                store = LayerStore(outputs[sparsity], plan.resume_key(source["sha256"], sparsity))
                if plan.needs_calibration and not all(writer.has(name) for name in targets):
                    assert calibration is not None
                    store.open()
                    sparsities = dict.fromkeys(targets, sparsity)
                    if plan.spreads:
                        sparsities = _spread(model, reader, targets, sparsity, calibration, store, runtime_options or {}, report)
                    prune_layers(
                        model,
                        reader,
                        plan.recipe(sparsities),
                        calibration,
                        store,
                        runtime_options=runtime_options or {},
                        progress=lambda done, total: report("prune", done, total),
                    )
                _write(reader, records, set(targets), writer, sparsity, plan, store, report)
                manifest = writer.finish(pruning=plan.record(sparsity))
                store.remove()
                weights = sum(manifest.tensors[name].size for name in targets)
                kept = sum(manifest.tensors[name].nnz or 0 for name in targets)
                reports.append(PruneReport(Path(outputs[sparsity]), method, sparsity, weights - kept, weights))
    return reports


def _check_arguments(outputs: Mapping[float, Any], plan: _Plan) -> None:
    if plan.method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {plan.method!r}")
    if plan.allocation not in ALLOCATIONS:
        raise ValueError(f"allocation must be one of {', '.join(ALLOCATIONS)}, not {plan.allocation!r}")
    if not outputs:
        raise ValueError("outputs must name at least one sparsity and directory")
    for sparsity in outputs:
        if not 0 < sparsity < 1:
            raise ValueError(f"sparsity must be greater than 0 and less than 1, not {sparsity}")
    if len({os.path.abspath(path) for path in outputs.values()}) != len(outputs):
        raise ValueError("outputs must name a different directory for every sparsity")
    if plan.needs_calibration and plan.calibration is None:
        raise ValueError(f"method {plan.method!r} needs calibration text; pass calibration, or use method 'magnitude'")
    if plan.pattern is not None:
        drop, group = plan.pattern
        if not 0 < drop < group or group not in (2, 4, 8, 16):
            raise ValueError(f"a pattern (n, m) must have 0 < n < m and m one of 2, 4, 8, 16, not {plan.pattern}")
        if list(outputs) != [drop / group]:
            raise ValueError(f"the pattern {plan.pattern} makes one output of sparsity {drop / group:g}")
    if plan.spreads and (plan.pattern is not None or not plan.needs_calibration):
        raise ValueError("allocation 'sensitivity' needs calibration text and no pattern; use 'uniform'")


def _spread(
    model: str | os.PathLike[str],
    reader: ModelReader,
    targets: Sequence[str],
    sparsity: float,
    calibration: CalibrationSet,
    store: LayerStore,
    runtime_options: Mapping[str, Any],
    report: Progress,
) -> dict[str, float]:
    """Weight name → sparsity by measured sensitivity; what an interrupted run decided stands."""
    known = store.load_allocation()
    if known is not None:
        return known
    names: dict[int, list[str]] = {}
    for name in targets:
        names.setdefault(layer_of(name), []).append(name)
    parts = {layer: parts_of(own) for layer, own in names.items()}
    stream = open_stream(model, calibration, runtime_options)
    done, total = 0, stream.num_layers + 1

    def tick() -> None:
        nonlocal done
        done += 1
        report("allocate", done, total)

    report("allocate", 0, total)
    found = measure_sensitivity(stream, reader, parts, probe_sequences(calibration), sparsity, tick)
    sparsities = allocate(found, {name: reader.record(name).size for name in targets}, sparsity)
    store.save_allocation(sparsities)
    return sparsities


def _write(
    reader: ModelReader,
    records: Mapping[str, TensorRecord],
    targets: set[str],
    writer: ModelWriter,
    sparsity: float,
    plan: _Plan,
    store: LayerStore,
    report: Progress,
) -> None:
    """Write every tensor in the reader's order: the pruned ones from the store (or by magnitude), the rest as they are."""
    architecture, tied = reader.manifest.architecture, HEAD not in records

    def store_as(name: str, tensor: Stored) -> None:
        writer.add(name, plan.quantizer(tensor, role_of(name, architecture, tied=tied)))

    layer, weights = -1, {}
    for done, name in enumerate(records):
        report("write", done, len(records))
        if writer.has(name):
            continue
        if name in targets and not plan.needs_calibration:
            weight = reader.dense(name)
            store_as(name, pack(weight, pattern_mask(weight, plan.pattern) if plan.pattern else keep_masks(weight, [sparsity])[0]))
        elif name in targets:
            if layer != layer_of(name):
                layer = layer_of(name)
                weights = store.load(layer)
            store_as(name, weights[name])
        else:
            store_as(name, reader.stored(name))
    report("write", len(records), len(records))
