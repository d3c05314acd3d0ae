"""ModelWriter: makes a model directory, atomically and resumably, one tensor at a time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from gossamer.checkpoint.bitmap import BitmapTensor, pack, validate
from gossamer.checkpoint.digest import FileRecord, hash_threads, start_hashing
from gossamer.checkpoint.dtypes import SAFETENSORS_NAMES, Array, dtype_name, first_nonfinite
from gossamer.checkpoint.faults import fault
from gossamer.checkpoint.file_io import FileIO
from gossamer.checkpoint.manifest import MANIFEST_NAME, Manifest, TensorRecord, is_file_name
from gossamer.checkpoint.scaled import ScaledMatrix, validate_scaled
from gossamer.checkpoint.shard_writer import MAX_SHARD_BYTES, PhysicalTensor, ShardWriter, shard_name
from gossamer.checkpoint.staging import StagedDirectory

__all__ = ["ModelWriter"]


class ModelWriter:
    """Writes a model directory; use it in a `with` block, and call `finish` at its end.

    Nothing appears at `directory` before `finish`, and what was there stays intact until then. On an exception the finished shards are
    kept beside the destination if the run is resumable (`resume_key`), else removed.

    Parameters
    ----------
    directory : the model directory to make.
    side_files : every other file of the model by name; must hold "config.json".
    source : the manifest's record of where the weights come from: {"kind", "name", "sha256"}.
    producer : e.g. "gossamer 0.1.0".
    overwrite : replace the model that is there.
    resume_key : identity of this conversion (source digest and options). Finished shards of an interrupted run with the same key are
        verified and kept; then `has` is True for their tensors, and adding these again does nothing. None: never resume.
    expected_bytes : an upper bound of what will be written, checked against the free space first.
    allow_nonfinite : store NaN and infinities instead of refusing them.

    Raises
    ------
    FileExistsError : a model (without `overwrite`), or anything else, is at `directory`.
    BlockingIOError : another process writes it.
    OSError : no space, no permission.
    CheckpointError : NaN or infinity in a tensor; no usable config.json.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        side_files: dict[str, bytes],
        source: dict[str, str],
        producer: str,
        overwrite: bool = False,
        resume_key: str | None = None,
        expected_bytes: int = 0,
        allow_nonfinite: bool = False,
        max_shard_bytes: int = MAX_SHARD_BYTES,
        io: FileIO | None = None,
    ) -> None:
        self._io = io or FileIO()
        self._side_files = dict(side_files)
        self._architecture = _architecture(self._side_files)
        for name in self._side_files:
            if not is_file_name(name) or name == MANIFEST_NAME:
                raise ValueError(f"side file {name!r}: use bare names of letters, digits, '.', '_' and '-'")
        self._source, self._producer, self._allow_nonfinite = source, producer, allow_nonfinite
        self._resumable = resume_key is not None
        self._published = False
        self._pool = hash_threads()
        try:
            self._staged = StagedDirectory(Path(directory), overwrite=overwrite, foreign_files=_foreign_files, io=self._io)
        except BaseException:
            self._pool.shutdown()
            raise
        try:
            self._shards = ShardWriter(self._staged.path, resume_key=resume_key, io=self._io, pool=self._pool, max_bytes=max_shard_bytes)
            if not self._shards.resume():
                self._staged.clear()
            self._shards.require_space(expected_bytes, self._staged.destination)
        except BaseException:
            self.close()
            raise

    @property
    def resumed_tensors(self) -> int:
        """How many tensors an interrupted run had finished already."""
        return sum(len(shard.tensors) for shard in self._shards.finished)

    def has(self, name: str) -> bool:
        """Whether the tensor is written already, so that it need not be read and added again."""
        return self._shards.is_finished(name)

    def add_dense(self, name: str, array: Array) -> None:
        """Store an f32, f16 or bf16 array as it is."""
        if self._is_taken(name):
            return
        array = np.ascontiguousarray(array).reshape(array.shape)
        dtype = dtype_name(array)
        self._require_finite(name, array)
        part = PhysicalTensor(name, SAFETENSORS_NAMES[dtype], array)
        self._shards.add(name, TensorRecord("dense", dtype, array.shape, ""), [part])

    def add(self, name: str, tensor: Array | BitmapTensor | ScaledMatrix) -> None:
        """Store a tensor in the encoding it has."""
        if isinstance(tensor, BitmapTensor):
            self.add_bitmap(name, tensor)
        elif isinstance(tensor, ScaledMatrix):
            self.add_scaled(name, tensor)
        else:
            self.add_dense(name, tensor)

    def add_scaled(self, name: str, matrix: ScaledMatrix) -> None:
        """Store a dense matrix of small values and their scales."""
        if self._is_taken(name):
            return
        if not name.endswith(".weight"):
            raise ValueError(f"only a tensor named *.weight can have scales, not {name!r}")
        validate_scaled(matrix, name)
        parts = [
            PhysicalTensor(f"{name.removesuffix('.weight')}.scale", "F32", np.ascontiguousarray(matrix.scales)),
            PhysicalTensor(name, SAFETENSORS_NAMES[matrix.dtype], np.ascontiguousarray(matrix.values)),
        ]
        self._shards.add(name, TensorRecord("dense", matrix.dtype, matrix.shape, "", None, matrix.group), parts)

    def add_bitmap(self, name: str, matrix: Array | BitmapTensor, mask: npt.NDArray[np.bool_] | None = None) -> None:
        """Store a matrix as a bitmap: what `mask` (bool, same shape) keeps, or without a mask what is not zero."""
        if self._is_taken(name):
            return
        if not name.endswith(".weight"):
            raise ValueError(f"only a tensor named *.weight can be a bitmap, not {name!r}")
        packed = matrix if isinstance(matrix, BitmapTensor) else pack(matrix, mask)
        dtype = packed.dtype
        validate(packed, name)
        if packed.scales is None:
            self._require_finite(name, packed)
        stem = name.removesuffix(".weight")
        parts = [
            PhysicalTensor(f"{stem}.shape", "I64", np.array(packed.shape, np.int64)),
            PhysicalTensor(f"{stem}.row_offsets", "I64", packed.row_offsets),
            *([] if packed.scales is None else [PhysicalTensor(f"{stem}.scale", "F32", np.ascontiguousarray(packed.scales))]),
            PhysicalTensor(f"{stem}.compressed", SAFETENSORS_NAMES[dtype], np.ascontiguousarray(packed.values)),
            PhysicalTensor(f"{stem}.bitmask", "U8", np.ascontiguousarray(packed.bitmask)),
        ]
        self._shards.add(name, TensorRecord("bitmap", dtype, packed.shape, "", packed.nnz, packed.group), parts)

    def _is_taken(self, name: str) -> bool:
        if self.has(name):
            return True
        if name in self._shards:
            raise ValueError(f"tensor {name!r} was added before")
        return False

    def _require_finite(self, name: str, tensor: Array | BitmapTensor) -> None:
        if self._allow_nonfinite:
            return
        if isinstance(tensor, BitmapTensor):
            index = first_nonfinite(tensor.values)
            if index is not None:
                index = tuple(int(i) for i in np.argwhere(tensor.mask())[index[0]])
        else:
            index = first_nonfinite(tensor)
        if index is not None:
            raise fault(
                f"The weight at index {list(index)} is NaN or infinite",
                tensor=name,
                field=f"index {list(index)}",
                expected="finite weights",
                fix="The model is damaged, or its values overflow the dtype chosen (then pass --dtype bf16 or f32). "
                "To keep such values pass --allow-nonfinite",
            )

    def finish(self, *, pruning: dict[str, Any] | None = None) -> Manifest:
        """Write the rest, the side files and last the manifest; then the directory appears. Returns the manifest."""
        self._shards.flush()
        count = len(self._shards.finished)
        side_files = {name: self._write(name, self._side_files[name]) for name in sorted(self._side_files)}
        tensors, shards = self._shards.finish([shard_name(i, count) for i in range(count)])
        files = shards | side_files
        manifest = Manifest(
            producer=self._producer, architecture=self._architecture, source=self._source, tensors=tensors, files=files, pruning=pruning
        )
        rendered = manifest.render()
        Manifest.parse(rendered)  # what a reader would refuse must not be published
        self._io.sync_directory(self._staged.path)
        self._io.write_file(self._staged.path / MANIFEST_NAME, rendered)
        self._staged.publish()
        self._published = True
        self.close()
        return manifest

    def _write(self, name: str, data: bytes) -> FileRecord:
        record = start_hashing([memoryview(data)], self._pool)
        self._io.write_file(self._staged.path / name, data)
        return record()

    def close(self) -> None:
        """Let go of the lock; without `finish`, remove what is partial unless it can be resumed. May be called twice."""
        try:
            if not self._published and not (self._resumable and self._shards.finished):
                self._staged.discard()
        finally:
            self._staged.close()
            self._pool.shutdown()

    def __enter__(self) -> ModelWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _architecture(side_files: dict[str, bytes]) -> str:
    try:
        names = json.loads(side_files["config.json"])["architectures"]
        if isinstance(names[0], str):
            return names[0]
    except (KeyError, IndexError, TypeError, ValueError):
        pass
    raise fault('A model needs a config.json with "architectures"', file="config.json", field="architectures")


def _foreign_files(directory: Path) -> list[str]:
    """Files in an existing directory that are not part of a model we wrote; replacing the directory would lose them."""
    names = {path.name for path in directory.iterdir()}
    try:
        ours = set(Manifest.parse((directory / MANIFEST_NAME).read_bytes()).files) | {MANIFEST_NAME}
    except (OSError, ValueError):
        ours = set()
    return sorted(names - ours)
