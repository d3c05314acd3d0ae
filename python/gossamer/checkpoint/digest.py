"""SHA-256 of files: per 16 MiB chunk, and over the chunks' digests, so that it can be computed and checked in parallel."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

__all__ = ["CHUNK_BYTES", "FileRecord", "digest_of_chunks", "hash_descriptor", "hash_threads", "model_id", "start_hashing"]

CHUNK_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class FileRecord:
    """What the manifest says of one file."""

    bytes: int
    sha256: str
    chunks: tuple[str, ...]


def hash_threads() -> ThreadPoolExecutor:
    """A pool for digests; hashlib gives up the GIL on large buffers."""
    return ThreadPoolExecutor(max_workers=min(8, len(os.sched_getaffinity(0))), thread_name_prefix="gossamer-sha256")


def digest_of_chunks(chunks: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(chunks)).hexdigest()


def _record(size: int, chunks: list[bytes]) -> FileRecord:
    return FileRecord(size, digest_of_chunks(chunks), tuple(c.hex() for c in chunks))


def _split(pieces: Iterable[memoryview]) -> list[list[memoryview]]:
    """Regroup pieces into chunks of exactly CHUNK_BYTES (the last may be shorter); nothing is copied."""
    chunks: list[list[memoryview]] = []
    room = 0
    for piece in pieces:
        while piece:
            if room == 0:
                chunks.append([])
                room = CHUNK_BYTES
            chunks[-1].append(piece[:room])
            taken = min(room, len(piece))
            piece, room = piece[taken:], room - taken
    return chunks


def _hash_pieces(pieces: list[memoryview]) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def start_hashing(pieces: Iterable[memoryview], pool: ThreadPoolExecutor) -> Callable[[], FileRecord]:
    """Hash a file's bytes, given as pieces in order, in the background; the result of calling what is returned is the file's record."""
    chunks = _split(pieces)
    size = sum(len(piece) for chunk in chunks for piece in chunk)
    digests = pool.map(_hash_pieces, chunks)
    return lambda: _record(size, list(digests))


def hash_descriptor(descriptor: int, pool: ThreadPoolExecutor) -> FileRecord:
    """The record of an open file, as large as it is now."""
    size = os.fstat(descriptor).st_size

    def one(offset: int) -> bytes:
        want = min(CHUNK_BYTES, size - offset)
        data = os.pread(descriptor, want, offset)
        while len(data) < want:
            more = os.pread(descriptor, want - len(data), offset + len(data))
            if not more:
                break  # shrunk meanwhile: the digest will differ, which is the right answer
            data += more
        return hashlib.sha256(data).digest()

    return _record(size, list(pool.map(one, range(0, size, CHUNK_BYTES))))


def model_id(files: dict[str, FileRecord]) -> str:
    """The identity of a model: the names and digests of its files."""
    return hashlib.sha256("".join(f"{name} {files[name].sha256}\n" for name in sorted(files)).encode()).hexdigest()
