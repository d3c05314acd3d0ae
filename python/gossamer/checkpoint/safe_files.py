"""Opening files of untrusted directories: bare names only, regular files only, links only where allowed, read and never mapped."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType

from gossamer.checkpoint.faults import fault
from gossamer.errors import UnsafePathError

__all__ = ["SafeFile", "open_in"]

_MAX_SMALL = 1 << 30


class SafeFile:
    """A regular file, opened once, read by position. Another process that cuts it short causes a CheckpointError, not a crash."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self.name = name
        self._stat = os.fstat(descriptor)
        self.size = self._stat.st_size

    def read(self, offset: int, size: int) -> bytearray:
        """Exactly `size` bytes from `offset`."""
        out = bytearray(size)
        view = memoryview(out)
        done = 0
        while done < size:
            try:
                got = os.preadv(self._descriptor, [view[done : done + (1 << 28)]], offset + done)
            except OSError as error:
                raise fault(f"Cannot read: {error.strerror}", file=self.name, offset=offset + done, fix="Check the disk") from error
            if got == 0:
                raise fault("The file is shorter than its header says", file=self.name, offset=offset + done,
                            expected=f"{size - done} more bytes", fix="It is cut off, or was changed while being read")  # fmt: skip
            done += got
        return out

    def read_all(self) -> bytes:
        if self.size > _MAX_SMALL:
            raise fault("The file is too large", file=self.name, expected=f"at most {_MAX_SMALL} bytes", found=self.size)
        return bytes(self.read(0, self.size))

    def fileno(self) -> int:
        return self._descriptor

    def has_changed(self) -> bool:
        """Whether the file was written to since it was opened."""
        now = os.fstat(self._descriptor)
        return (now.st_size, now.st_mtime_ns) != (self._stat.st_size, self._stat.st_mtime_ns)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> SafeFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_in(directory: Path, name: str, *, allow_symlinks: bool) -> SafeFile:
    """Open the file `name` of `directory`. UnsafePathError for anything but a bare name of a regular file."""
    if not name or name in (".", "..") or any(c in "/\\" or ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF for c in name) or len(name) > 255:
        raise fault("Not a bare file name", kind=UnsafePathError, file=name, fix="A model's files lie in one directory")
    try:
        # O_NONBLOCK: a FIFO must not hang the open.
        descriptor = os.open(directory / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if allow_symlinks else os.O_NOFOLLOW))
    except FileNotFoundError as error:
        dangling = os.path.lexists(directory / name)
        text = "The link leads nowhere" if dangling else "A file is missing"
        raise fault(text, file=name, fix="Download or convert the model again") from error
    except OSError as error:
        if not allow_symlinks and os.path.islink(directory / name):
            raise fault(
                "The file is a symbolic link", kind=UnsafePathError, file=name, fix="Copy the file itself into the directory"
            ) from error
        raise fault(f"Cannot open: {error.strerror}", file=name) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise fault("Not a regular file", kind=UnsafePathError, file=name, fix="Remove it, or give the path of another model")
    return SafeFile(descriptor, name)
