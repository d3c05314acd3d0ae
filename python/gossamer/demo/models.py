"""Makes the demo's model directories, or finds them already made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from gossamer import texts
from gossamer.checkpoint import ModelReader, is_model_directory
from gossamer.convert import convert
from gossamer.errors import CheckpointError
from gossamer.prune import CalibrationSet, prune

__all__ = ["CALIBRATION_TOKENS", "METHODS", "calibration_for", "make_dense", "make_pruned", "model_bytes"]

METHODS = {0.3: "wanda", 0.4: "wanda", 0.5: "auto"}  # of each sparsity: Wanda is quick, and good enough at the lower ones
CALIBRATION_TOKENS = {"wanda": 4096, "auto": 8192}  # norms of inputs need less text than their second moments
_CALIBRATION_LENGTH = 512


def make_dense(gguf: Path, directory: Path, progress: Callable[[int, int, str], None]) -> Path:
    """Convert the GGUF file unless that was done."""
    destination = directory / "smollm2-dense"
    if not _is_intact(destination):
        _discard(destination)
        convert(gguf, destination, progress=progress)
    return destination


def calibration_for(dense: Path, method: str) -> CalibrationSet:
    with ModelReader(dense) as reader:
        tokens = CALIBRATION_TOKENS[method]
        return CalibrationSet.from_files(texts.CALIBRATION, reader.side_files(), num_tokens=tokens, length=_CALIBRATION_LENGTH)


def make_pruned(dense: Path, directory: Path, progress: Callable[[str, int, int], None]) -> dict[float, Path]:
    """Prune to every sparsity that is not there."""
    wanted = {sparsity: directory / f"smollm2-{round(sparsity * 100)}" for sparsity in METHODS}
    with ModelReader(dense) as reader:
        model_id = reader.manifest.model_id
    for method in dict.fromkeys(METHODS.values()):
        calibration = calibration_for(dense, method)
        outputs = {s: path for s, path in wanted.items() if METHODS[s] == method}
        missing = {s: path for s, path in outputs.items() if not _is_pruned_from(path, model_id, s, calibration)}
        for path in missing.values():
            _discard(path)
        if missing:
            prune(dense, missing, method=method, calibration=calibration, progress=progress)
    return wanted


def model_bytes(directory: Path) -> int:
    """What a model takes on disk."""
    return sum(file.stat().st_size for file in directory.iterdir())


def _discard(directory: Path) -> None:
    """Remove a model that is damaged or made from something else; the demo's own directory holds nothing but the demo's models."""
    if directory.exists():
        shutil.rmtree(directory)


def _is_intact(directory: Path) -> bool:
    """Whether a complete model is there; its data is verified when it is loaded."""
    if not is_model_directory(directory):
        return False
    try:
        ModelReader(directory).close()
    except (CheckpointError, OSError):
        return False
    return True


def _is_pruned_from(directory: Path, model_id: str, sparsity: float, calibration: CalibrationSet) -> bool:
    if not _is_intact(directory):
        return False
    with ModelReader(directory) as reader:
        record = reader.manifest.pruning or {}
        return (
            reader.manifest.source.get("sha256") == model_id
            and record.get("sparsity") == sparsity
            and record.get("method") == METHODS[sparsity]  # and not that of an older demo
            and record.get("allocation") == ("sensitivity" if METHODS[sparsity] == "auto" else None)
            and record.get("calibration_sha256") == calibration.sha256
        )
