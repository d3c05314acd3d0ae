"""Every change that a writer makes to the disk goes through FileIO: a seam, so that tests can fail or stop at each step."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["FileIO", "exclusive_lock"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class FileIO:
    """The real file system. Every method either completes or raises OSError."""

    def make_directory(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def write(self, descriptor: int, data: memoryview) -> None:
        while data:
            data = data[os.write(descriptor, data) :]

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, source: Path, destination: Path) -> None:
        os.rename(source, destination)

    def sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def remove_tree(self, path: Path) -> None:
        shutil.rmtree(path)

    def exchange(self, first: Path, second: Path) -> bool:
        """Swap two directories atomically; False where the system cannot (not Linux, or a network file system)."""
        try:
            rename = ctypes.CDLL(None, use_errno=True).renameat2
        except (AttributeError, OSError):
            return False
        if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
            return True
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        raise OSError(code, os.strerror(code), str(first), None, str(second))

    def free_bytes(self, path: Path) -> int:
        return shutil.disk_usage(path).free

    def write_file(self, path: Path, data: bytes | memoryview | list[memoryview]) -> None:
        """Atomic: a temporary file beside it, fsync, rename. The caller syncs the directory."""
        partial = path.with_name(f".{path.name}.partial")
        descriptor = self.create(partial)
        try:
            for piece in data if isinstance(data, list) else [memoryview(data)]:
                self.write(descriptor, piece)
            self.sync(descriptor)
        except BaseException:
            self.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise
        self.close(descriptor)
        self.rename(partial, path)


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold `path` locked and remove it afterwards; BlockingIOError when another process holds it. The lock dies with its process."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed the file between our open and our lock; then this lock guards nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False)):
                    break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(descriptor)
