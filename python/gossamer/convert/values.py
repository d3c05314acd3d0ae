"""Model directories with their weights rounded to int8, int4 or fp8."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import gossamer
from gossamer.checkpoint import Manifest, ModelReader, ModelWriter
from gossamer.convert.architectures import HEAD, embedding_name, is_linear
from gossamer.quantize import Quantizer

__all__ = ["quantize_model", "role_of"]


def role_of(name: str, architecture: str, *, tied: bool) -> str | None:
    """What a tensor is to a `Quantizer`: "linear", "head" (where it is tied the embedding), or None."""
    if is_linear(name, architecture):
        return "linear"
    return "head" if name == (embedding_name(architecture) if tied else HEAD) else None


def quantize_model(
    model: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    quantizer: Quantizer,
    *,
    overwrite: bool = False,
    resume: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> Manifest:
    """Round the weights of a model directory, pruned or not; everything else is copied. Returns the new manifest.

    Raises
    ------
    FileExistsError, OSError, CheckpointError : as `ModelWriter` and `ModelReader`.
    """
    report = progress or (lambda done, total, what: None)
    with ModelReader(model) as reader:
        manifest = reader.manifest
        key = json.dumps([manifest.model_id, quantizer.values, quantizer.group, gossamer.__version__])
        with ModelWriter(
            destination,
            side_files=reader.side_files(),
            source={"kind": "gossamer", "name": Path(model).resolve().name, "sha256": manifest.model_id},
            producer=f"gossamer {gossamer.__version__}",
            overwrite=overwrite,
            resume_key=hashlib.sha256(key.encode()).hexdigest() if resume else None,
            expected_bytes=sum(record.stored_bytes + 1024 for record in manifest.tensors.values()),
        ) as writer:
            done, total = 0, sum(record.size for record in manifest.tensors.values())
            tied = HEAD not in manifest.tensors
            for name, record in manifest.tensors.items():
                if not writer.has(name):
                    role = role_of(name, manifest.architecture, tied=tied)
                    writer.add(name, quantizer(reader.stored(name), role))
                done += record.size
                report(done, total, name)
            return writer.finish(pruning=manifest.pruning)
