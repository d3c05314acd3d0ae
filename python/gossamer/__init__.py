"""Gossamer: a runtime for large language models with unstructured-sparse weights.

>>> from gossamer import Runtime, SamplingParams
>>> with Runtime("models/smollm2-40") as runtime:
...     print(runtime.generate("The capital of France is", max_tokens=8)[0].outputs[0].text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gossamer.errors import (
        CheckpointError,
        CheckpointVersionError,
        ChecksumError,
        ContextLengthError,
        DeviceError,
        EngineDeadError,
        NumericsError,
        OutOfMemoryError,
        QueueFullError,
        UnsafePathError,
    )
    from gossamer.outputs import Calibration, CompletionOutput, Logprob, RequestOutput, RuntimeInfo, RuntimeStats, StreamChunk
    from gossamer.runtime import Runtime
    from gossamer.sampling_params import SamplingParams

__version__ = "0.1.0"
__all__ = [
    "Calibration",
    "CheckpointError",
    "CheckpointVersionError",
    "ChecksumError",
    "CompletionOutput",
    "ContextLengthError",
    "DeviceError",
    "EngineDeadError",
    "Logprob",
    "NumericsError",
    "OutOfMemoryError",
    "QueueFullError",
    "RequestOutput",
    "Runtime",
    "RuntimeInfo",
    "RuntimeStats",
    "SamplingParams",
    "StreamChunk",
    "UnsafePathError",
    "__version__",
]

_RUNTIME = {"Runtime": "runtime", "SamplingParams": "sampling_params"}
_OUTPUTS = ("Calibration", "CompletionOutput", "Logprob", "RequestOutput", "RuntimeInfo", "RuntimeStats", "StreamChunk")


def __getattr__(name: str) -> Any:
    """Import a public name's module when it is first used, so that the commands and `import gossamer` start quickly."""
    if name not in __all__:
        raise AttributeError(f"module 'gossamer' has no attribute {name!r}")
    module = _RUNTIME.get(name) or ("outputs" if name in _OUTPUTS else "errors")
    value = getattr(importlib.import_module(f"gossamer.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
