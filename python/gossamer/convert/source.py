"""What convert reads from: a source knows its configuration, its tensors by their Hugging Face names, and its own digest."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from gossamer.checkpoint.dtypes import Array

__all__ = ["Source", "SourceTensor"]


@dataclass(frozen=True)
class SourceTensor:
    """A logical tensor, before it is read; `dtype` is what it is stored as unless the user chooses."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Source(ABC):
    """A checkpoint to convert, opened and checked as far as its headers go.

    Attributes
    ----------
    kind : "huggingface", "gguf" or "gossamer"; as in the manifest.
    name : the source's base name, for the manifest.
    config : config.json, ready for our directory except for its dtype.
    tensors : by normalised name, in the order to store them.
    """

    kind: str
    name: str
    config: dict[str, Any]
    tensors: dict[str, SourceTensor]

    @property
    def architecture(self) -> str:
        return str(self.config["architectures"][0])

    @abstractmethod
    def side_files(self) -> dict[str, bytes]:
        """Files to store beside config.json: generation config, tokenizer, chat template."""

    @abstractmethod
    def read(self, name: str) -> Array:
        """A tensor's values as f32, f16 or bf16."""

    @abstractmethod
    def digest(self, pool: ThreadPoolExecutor) -> str:
        """SHA-256 that identifies all that is read: 64 hexadecimal digits."""

    @abstractmethod
    def has_changed(self) -> str | None:
        """Name of a file that was written to since it was opened, or None."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
