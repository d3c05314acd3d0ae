"""Groups tensors into safetensors files: each is gathered in memory, then written at once while its digests are computed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gossamer.checkpoint.digest import FileRecord, hash_descriptor, start_hashing
from gossamer.checkpoint.dtypes import Array
from gossamer.checkpoint.file_io import FileIO
from gossamer.checkpoint.manifest import TensorRecord
from gossamer.checkpoint.shard import ITEM_BYTES, build_header

__all__ = ["MAX_SHARD_BYTES", "PhysicalTensor", "ShardWriter", "shard_name"]

# Also the memory that a writer needs beside the tensor at hand, and the work that an interruption can lose.
MAX_SHARD_BYTES = 512 * 1024 * 1024
_RESUME_NAME = ".resume.json"


def shard_name(index: int, count: int) -> str:
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def _temporary_name(index: int) -> str:
    return f"shard-{index + 1:05d}.safetensors"


@dataclass(frozen=True)
class PhysicalTensor:
    """A named array as it lies in a shard; `dtype` in safetensors' spelling."""

    name: str
    dtype: str
    array: Array


@dataclass(frozen=True)
class FinishedShard:
    record: FileRecord
    tensors: dict[str, TensorRecord]  # logical name → record; `shard` is filled in at the end, when the number of shards is known


class ShardWriter:
    """Writes shards into a partial directory; knows what an earlier, interrupted run finished.

    Parameters
    ----------
    directory : where to write; exists.
    resume_key : identity of the conversion; None never resumes. Shards are kept only if the key they were written under is the same.
    aligned : order each shard's tensors by item size, so that every tensor is aligned; wanted by other readers of plain checkpoints.
    """

    def __init__(
        self,
        directory: Path,
        *,
        resume_key: str | None,
        io: FileIO,
        pool: ThreadPoolExecutor,
        max_bytes: int = MAX_SHARD_BYTES,
        aligned: bool = False,
    ) -> None:
        self._directory, self._key, self._io, self._pool = directory, resume_key, io, pool
        self._max_bytes, self._aligned = max_bytes, aligned
        self._pending: list[PhysicalTensor] = []
        self._pending_records: dict[str, TensorRecord] = {}
        self._pending_bytes = 0
        self.finished: list[FinishedShard] = []
        self.written_bytes = 0

    def __contains__(self, name: str) -> bool:
        return name in self._pending_records or any(name in shard.tensors for shard in self.finished)

    def is_finished(self, name: str) -> bool:
        """Whether the tensor is on disk already, from an interrupted run perhaps."""
        return any(name in shard.tensors for shard in self.finished)

    def add(self, name: str, record: TensorRecord, parts: Sequence[PhysicalTensor]) -> None:
        """Take one logical tensor; the arrays must not change afterwards."""
        size = sum(part.array.nbytes for part in parts)
        if self._pending and self._pending_bytes + size > self._max_bytes:
            self.flush()
        self._pending += parts
        self._pending_records[name] = record
        self._pending_bytes += size

    def require_space(self, expected_bytes: int, destination: Path) -> None:
        """OSError unless so many bytes, less those that an interrupted run has written, fit on the disk."""
        needed = expected_bytes - sum(shard.record.bytes for shard in self.finished)
        free = self._io.free_bytes(self._directory)
        if needed > free:
            text = f"Not enough disk space: {needed:,} bytes are needed, {free:,} are free. Free some, or choose another disk"
            raise OSError(errno.ENOSPC, text, str(destination))

    def flush(self) -> None:
        """Write what is gathered as the next shard."""
        if not self._pending:
            return
        parts = sorted(self._pending, key=lambda p: -ITEM_BYTES[p.dtype]) if self._aligned else self._pending
        header = build_header([(p.name, p.dtype, p.array.shape) for p in parts])
        pieces = [memoryview(header)] + [_bytes_of(p.array) for p in parts if p.array.size]
        total = sum(len(piece) for piece in pieces)
        free = self._io.free_bytes(self._directory)
        if total > free:
            raise OSError(errno.ENOSPC, f"No space left: the next shard needs {total:,} bytes, {free:,} are free", str(self._directory))
        record = start_hashing(pieces, self._pool)
        try:
            self._io.write_file(self._directory / _temporary_name(len(self.finished)), pieces)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise OSError(
                    error.errno, f"No space left: this shard needs {total:,} bytes ({error.strerror})", str(self._directory)
                ) from error
            raise
        self.finished.append(FinishedShard(record(), self._pending_records))
        self.written_bytes += total
        self._pending, self._pending_records, self._pending_bytes = [], {}, 0
        if self._key is not None:
            self._io.sync_directory(self._directory)
            self._io.write_file(self._directory / _RESUME_NAME, self._state())

    def _state(self) -> bytes:
        return json.dumps({"key": self._key, "shards": [asdict(shard) for shard in self.finished]}).encode()

    def resume(self) -> bool:
        """Take over the shards of an interrupted run of the same conversion, as far as their digests hold. False: start afresh."""
        if self._key is None:
            return False
        try:
            state = json.loads((self._directory / _RESUME_NAME).read_bytes())
            if state["key"] != self._key:
                return False
            shards = [
                FinishedShard(
                    FileRecord(s["record"]["bytes"], s["record"]["sha256"], tuple(s["record"]["chunks"])),
                    {name: TensorRecord(**{**t, "shape": tuple(t["shape"])}) for name, t in s["tensors"].items()},
                )
                for s in state["shards"]
            ]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        for index, shard in enumerate(shards):
            if not self._is_intact(self._directory / _temporary_name(index), shard.record):
                break
            self.finished.append(shard)
        kept = {_temporary_name(index) for index in range(len(self.finished))}
        for path in self._directory.iterdir():
            if path.name not in kept:
                self._io.unlink(path)
        if not self.finished:
            return False
        self._io.write_file(self._directory / _RESUME_NAME, self._state())
        return True

    def _is_intact(self, path: Path, expected: FileRecord) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return stat.S_ISREG(os.fstat(descriptor).st_mode) and hash_descriptor(descriptor, self._pool) == expected
        finally:
            os.close(descriptor)

    def finish(self, names: Sequence[str]) -> tuple[dict[str, TensorRecord], dict[str, FileRecord]]:
        """Give the shards their names, one each (see `flush` first); returns the manifest's tensors and the shards' records."""
        tensors: dict[str, TensorRecord] = {}
        files: dict[str, FileRecord] = {}
        # From here on the temporary names go away, so the run can no longer be resumed.
        with contextlib.suppress(FileNotFoundError):
            self._io.unlink(self._directory / _RESUME_NAME)
        for index, (name, shard) in enumerate(zip(names, self.finished, strict=True)):
            self._io.rename(self._directory / _temporary_name(index), self._directory / name)
            files[name] = shard.record
            for tensor, r in shard.tensors.items():
                tensors[tensor] = replace(r, shard=name)
        return tensors, files


def _bytes_of(array: Any) -> memoryview:
    """The array's memory; bfloat16 is a dtype that the buffer protocol does not know."""
    return memoryview(array.reshape(-1).view("u1"))
