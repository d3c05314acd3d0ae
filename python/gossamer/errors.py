"""The exceptions of Gossamer: what happened, why, and what to do.

Each derives from the built-in a caller would catch anyway, so ``except ValueError`` works. The C++ core raises the same classes.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "CheckpointVersionError",
    "ChecksumError",
    "ContextLengthError",
    "DeviceError",
    "EngineDeadError",
    "NumericsError",
    "OutOfMemoryError",
    "QueueFullError",
    "UnsafePathError",
]


class CheckpointError(ValueError):
    """A model directory or a source checkpoint is malformed.

    Attributes
    ----------
    file : str
        Bare name of the file, or "".
    tensor : str
        Name of the tensor, or "".
    offset : int or None
        Byte offset in the file.
    field : str
        What is wrong in it: "shape", "row_offsets", "files.config.json.sha256", or "".
    expected, found : str
        The two values that should agree, or "".
    fix : str
        What the user can do, or "".
    """

    def __init__(
        self,
        message: str,
        *,
        file: str = "",
        tensor: str = "",
        offset: int | None = None,
        field: str = "",
        expected: str = "",
        found: str = "",
        fix: str = "",
    ) -> None:
        super().__init__(message)
        self.file = file
        self.tensor = tensor
        self.offset = offset
        self.field = field
        self.expected = expected
        self.found = found
        self.fix = fix


class ChecksumError(CheckpointError):
    """The bytes of a file are not those whose SHA-256 the manifest records; `expected` and `found` are the two digests."""


class CheckpointVersionError(CheckpointError):
    """The checkpoint is of a format version, or needs a feature, that this Gossamer does not know."""


class UnsafePathError(CheckpointError):
    """A file name or a link would lead out of the model directory, or to something that is not a regular file."""


class OutOfMemoryError(MemoryError):
    """An allocation failed; the engine lives on.

    Attributes
    ----------
    wanted : int
        Bytes asked for.
    free : int or None
        Bytes free in the pool, where known.
    pool : str
        "host", "cuda:0", "kv cache".
    """

    def __init__(self, message: str, *, wanted: int = 0, free: int | None = None, pool: str = "") -> None:
        super().__init__(message)
        self.wanted = wanted
        self.free = free
        self.pool = pool


class DeviceError(RuntimeError):
    """The device asked for is missing, too old, or not in this build."""


class EngineDeadError(RuntimeError):
    """The engine stopped on a fault of its own; this Runtime serves nothing more. Close it and make a new one."""


class QueueFullError(RuntimeError):
    """Too many requests are waiting; try again later."""


class NumericsError(RuntimeError):
    """The model's logits for this request are not finite; other requests are not affected."""


class ContextLengthError(ValueError):
    """A prompt, with the tokens asked for, exceeds the model's context.

    Attributes
    ----------
    num_prompt, num_new, limit : int
        Tokens of the prompt, tokens asked for, and the most that fit together.
    """

    def __init__(self, message: str, *, num_prompt: int = 0, num_new: int = 0, limit: int = 0) -> None:
        super().__init__(message)
        self.num_prompt = num_prompt
        self.num_new = num_new
        self.limit = limit
