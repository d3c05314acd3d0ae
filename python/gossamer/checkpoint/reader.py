"""ModelReader: reads a model directory tensor by tensor, checking every digest on the way."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from gossamer.checkpoint.bitmap import BitmapTensor, pack, pack_scaled, validate
from gossamer.checkpoint.digest import CHUNK_BYTES, FileRecord, hash_threads
from gossamer.checkpoint.dtypes import SAFETENSORS_NAMES, STORED_DTYPES, Array
from gossamer.checkpoint.faults import fault
from gossamer.checkpoint.manifest import MANIFEST_NAME, Manifest, TensorRecord
from gossamer.checkpoint.safe_files import SafeFile, open_in
from gossamer.checkpoint.scaled import ScaledMatrix, validate_scaled
from gossamer.checkpoint.shard import Part, header_length, parse_header
from gossamer.errors import ChecksumError

__all__ = ["ModelReader", "is_model_directory"]


def is_model_directory(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a directory that holds a manifest."""
    return (Path(path) / MANIFEST_NAME).is_file()


class ModelReader:
    """A model directory, opened and checked: manifest, side files, shard headers. Tensors are read, and verified, on demand.

    Raises
    ------
    CheckpointError and its kinds: whatever differs from docs/checkpoint-format.md.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise fault("There is no such model directory", file=self.directory.name, fix="Check the path")
        if not os.path.lexists(self.directory / MANIFEST_NAME):
            raise fault(
                "The directory holds no gossamer.json, so it is not a Gossamer model",
                file=MANIFEST_NAME,
                fix=f"Make one with: gossamer convert {directory} {str(directory).rstrip('/')}-gossamer",
            )
        with open_in(self.directory, MANIFEST_NAME, allow_symlinks=False) as file:
            self.manifest = Manifest.parse(file.read_all())
        self._stack = ExitStack()
        self._pool: ThreadPoolExecutor = self._stack.enter_context(hash_threads())
        try:
            self._files = {name: self._open(name, record) for name, record in self.manifest.files.items()}
            self._parts = {shard: self._read_header(shard) for shard in self.manifest.shards}
        except BaseException:
            self._stack.close()
            raise

    def _open(self, name: str, record: FileRecord) -> _VerifiedFile:
        file = self._stack.enter_context(open_in(self.directory, name, allow_symlinks=False))
        if file.size != record.bytes:
            raise fault("The file has the wrong size", file=name, field=f"files.{name}.bytes", expected=record.bytes, found=file.size,
                        fix="It was changed or cut off: download or convert the model again")  # fmt: skip
        return _VerifiedFile(file, record, self._pool)

    def _read_header(self, shard: str) -> dict[str, Part]:
        file = self._files[shard]
        length = header_length(bytes(file.read(0, min(8, file.size))), file.size, shard)
        parts = parse_header(bytes(file.read(8, length)), file.size, shard)
        expected: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, record in self.manifest.tensors.items():
            if record.shard == shard:
                expected |= _expected_parts(name, record)
        for name in sorted(expected.keys() | parts.keys()):
            want = expected.get(name)
            have = (parts[name].dtype, parts[name].shape) if name in parts else None
            if want != have:
                raise fault("The shard does not hold what the manifest says", file=shard, tensor=name,
                            expected=want or "nothing", found=have or "nothing",
                            fix="The directory mixes two models: download or convert the model again")  # fmt: skip
        return parts

    @property
    def config(self) -> dict[str, Any]:
        """config.json as an object."""
        config = json.loads(self.side_file("config.json"))
        assert isinstance(config, dict)
        return config

    def names(self) -> list[str]:
        """Logical tensor names, in the order of the shards."""
        return list(self.manifest.tensors)

    def record(self, name: str) -> TensorRecord:
        try:
            return self.manifest.tensors[name]
        except KeyError:
            raise KeyError(f"the model has no tensor {name!r}") from None

    def side_files(self) -> dict[str, bytes]:
        """Every file but the shards and the manifest, verified."""
        return {name: self.side_file(name) for name in self.manifest.files if name not in self._parts}

    def side_file(self, name: str) -> bytes:
        file = self._files[name]
        return bytes(file.read(0, file.size))

    def dense(self, name: str) -> Array:
        """The tensor as an f32, f16 or bf16 array, whatever its encoding; f32 where it has scales."""
        stored = self.stored(name)
        return stored.dense() if isinstance(stored, BitmapTensor | ScaledMatrix) else stored

    def stored(self, name: str) -> Array | BitmapTensor | ScaledMatrix:
        """The tensor in the encoding it is stored in."""
        record = self.record(name)
        if record.encoding == "bitmap":
            return self.bitmap(name)
        return self._scaled(name, record) if record.is_scaled else self._read(record, name)

    def _scaled(self, name: str, record: TensorRecord) -> ScaledMatrix:
        shape = (record.shape[0], record.shape[1])
        matrix = ScaledMatrix(record.dtype, shape, self._read(record, name), self._scales(name, record), record.scale_group)
        validate_scaled(matrix, name, record.shard)
        return matrix

    def _scales(self, name: str, record: TensorRecord) -> Array:
        return self._read(record, f"{name.removesuffix('.weight')}.scale", np.dtype("<f4"))

    def bitmap(self, name: str) -> BitmapTensor:
        """A matrix as a bitmap; a dense one is packed, keeping what is not zero."""
        record = self.record(name)
        if record.encoding == "dense":
            return pack_scaled(self._scaled(name, record)) if record.is_scaled else pack(self._read(record, name))
        stem = name.removesuffix(".weight")
        shape = self._read(record, f"{stem}.shape", np.dtype("<i8"))
        if tuple(shape.tolist()) != record.shape:
            raise fault("The stored shape is not the manifest's", file=record.shard, tensor=name, field="shape",
                        expected=record.shape, found=shape.tolist())  # fmt: skip
        tensor = BitmapTensor(
            shape=(record.shape[0], record.shape[1]),
            values=self._read(record, f"{stem}.compressed"),
            bitmask=self._read(record, f"{stem}.bitmask", np.dtype("u1")),
            row_offsets=self._read(record, f"{stem}.row_offsets", np.dtype("<i8")),
            scaled_dtype=record.dtype if record.is_scaled else None,
            scales=self._scales(name, record) if record.is_scaled else None,
            group=record.scale_group,
        )
        validate(tensor, name, record.shard)
        return tensor

    def tensors(self) -> Iterator[tuple[str, Array | BitmapTensor | ScaledMatrix]]:
        """Every tensor in the encoding it is stored in."""
        for name in self.manifest.tensors:
            yield name, self.stored(name)

    def _read(self, record: TensorRecord, part_name: str, dtype: np.dtype[Any] | None = None) -> Array:
        part = self._parts[record.shard][part_name]
        data = self._files[record.shard].read(part.offset, part.nbytes)
        return np.frombuffer(data, dtype or STORED_DTYPES[record.dtype]).reshape(part.shape)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> ModelReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _expected_parts(name: str, record: TensorRecord) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The physical tensors that a logical one implies: name → (safetensors dtype, shape)."""
    dtype = SAFETENSORS_NAMES[record.dtype]
    if record.encoding == "dense" and not record.is_scaled:
        return {name: (dtype, record.shape)}
    rows, cols = record.shape
    stem = name.removesuffix(".weight")
    halves = record.dtype == "i4"  # two to a byte
    parts: dict[str, tuple[str, tuple[int, ...]]] = {}
    if record.encoding == "dense":
        parts[name] = (dtype, (rows, (cols + 1) // 2 if halves else cols))
    else:
        nnz = record.nnz or 0
        parts |= {
            f"{stem}.shape": ("I64", (2,)),
            f"{stem}.row_offsets": ("I64", (rows,)),
            f"{stem}.compressed": (dtype, (nnz // 2 if halves else nnz,)),
            f"{stem}.bitmask": ("U8", (rows, (cols + 7) // 8)),
        }
    if record.is_scaled:
        group = record.scale_group
        parts[f"{stem}.scale"] = ("F32", (rows,) if group is None else (rows, -(-cols // group)))
    return parts


class _VerifiedFile:
    """A file whose every read is checked against the manifest's chunk digests."""

    def __init__(self, file: SafeFile, record: FileRecord, pool: ThreadPoolExecutor) -> None:
        self._file, self._record, self._pool = file, record, pool
        self.size = record.bytes
        self._last: tuple[int, bytearray] = (-1, bytearray())  # neighbouring tensors share a chunk

    def read(self, offset: int, size: int) -> bytearray:
        if size == 0 and self.size > 0:
            return bytearray()
        first, last = offset // CHUNK_BYTES, -(-(offset + size) // CHUNK_BYTES)
        out = bytearray(size)
        for index, chunk in zip(range(first, last), self._pool.map(self._chunk, range(first, last)), strict=True):
            begin = index * CHUNK_BYTES
            low, high = max(offset, begin), min(offset + size, begin + len(chunk))
            out[low - offset : high - offset] = memoryview(chunk)[low - begin : high - begin]
            self._last = (index, chunk)
        return out

    def _chunk(self, index: int) -> bytearray:
        known, data = self._last
        if known == index:
            return data
        offset = index * CHUNK_BYTES
        data = self._file.read(offset, min(CHUNK_BYTES, self.size - offset))
        found = hashlib.sha256(data).hexdigest()
        if found != self._record.chunks[index]:
            raise fault("The file was changed or damaged after it was written", kind=ChecksumError, file=self._file.name, offset=offset,
                        field=f"files.{self._file.name}.chunks[{index}]", expected=self._record.chunks[index], found=found,
                        fix="Download or convert the model again")  # fmt: skip
        return data
