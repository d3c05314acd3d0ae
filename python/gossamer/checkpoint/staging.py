"""A directory that appears all at once: it is built beside its destination and renamed into place when complete.

The parts, for a destination `models/opt`:

- `models/.opt.partial/` is where everything is written. A stopped writer leaves it behind; the next one resumes from it or removes it.
- `models/.opt.lock` is held (flock) by the writer, so a second one gets an error, and a dead one holds nothing.
- Publishing renames the complete directory to `models/opt`. Where a model is to be replaced, the two directories are exchanged in one
  atomic step and then the old one is removed; where the file system cannot exchange, the old one is moved to `models/.opt.old` first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from gossamer.checkpoint.file_io import FileIO, exclusive_lock

__all__ = ["StagedDirectory"]


class StagedDirectory:
    """Owns the lock and the partial directory of one destination.

    Parameters
    ----------
    destination : the directory to make.
    overwrite : replace the directory that is there, if `foreign_files` finds nothing in it that we did not write.
    foreign_files : given an existing directory, names the files that must not be removed with it.
    """

    def __init__(self, destination: Path, *, overwrite: bool, foreign_files: Callable[[Path], list[str]], io: FileIO) -> None:
        self.destination = Path(os.path.realpath(destination))
        parent, name = self.destination.parent, self.destination.name
        self.path = parent / f".{name}.partial"
        self._old = parent / f".{name}.old"
        self._io = io
        self._foreign_files = foreign_files
        self._overwrite = overwrite
        self._stack = ExitStack()
        io.make_directory(parent)
        lock = parent / f".{name}.lock"
        try:
            self._stack.enter_context(exclusive_lock(lock))
        except BlockingIOError as error:
            raise BlockingIOError(
                errno.EWOULDBLOCK, f"Another process is writing {self.destination}. Wait for it to end, or choose another directory"
            ) from error
        try:
            self._recover()
            self._check_destination()
        except BaseException:
            self._stack.close()
            raise

    def _recover(self) -> None:
        """Finish what a writer killed between the two renames of `publish` left: the old model is still whole."""
        if not self._old.is_dir():
            return
        if self.destination.exists():
            self._io.remove_tree(self._old)
        else:
            self._io.rename(self._old, self.destination)

    def _check_destination(self) -> None:
        if not os.path.lexists(self.destination):
            return
        if not self.destination.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "The destination exists and is not a directory", str(self.destination))
        if not any(self.destination.iterdir()):
            return
        foreign = self._foreign_files(self.destination)
        if foreign:
            listed = ", ".join(foreign[:5]) + (" and more" if len(foreign) > 5 else "")
            raise FileExistsError(
                errno.EEXIST,
                f"The directory holds files that Gossamer did not write ({listed}). Choose another, or move them away",
                str(self.destination),
            )
        if not self._overwrite:
            raise FileExistsError(
                errno.EEXIST,
                "A model is there already. Choose another directory, or pass --overwrite (overwrite=True)",
                str(self.destination),
            )

    def clear(self) -> None:
        """Start from an empty partial directory."""
        if os.path.lexists(self.path):
            self._io.remove_tree(self.path)
        self._io.make_directory(self.path)

    def publish(self) -> None:
        """Make the directory appear at its destination: the step after which the new model is there, and before which it is not."""
        self._io.sync_directory(self.path)
        self._check_destination()
        replaced = self.destination.is_dir() and any(self.destination.iterdir())
        leftover: Path | None = None
        if not replaced:
            self._io.rename(self.path, self.destination)
        elif self._io.exchange(self.path, self.destination):
            leftover = self.path
        else:
            self._io.rename(self.destination, self._old)
            self._io.rename(self.path, self.destination)
            leftover = self._old
        self._io.sync_directory(self.destination.parent)
        if leftover is not None:
            self._io.remove_tree(leftover)

    def discard(self) -> None:
        if os.path.lexists(self.path):
            self._io.remove_tree(self.path)

    def close(self) -> None:
        """Let go of the lock; what is in the partial directory stays."""
        self._stack.close()
