"""The array library that pruning computes with: numpy, or CuPy where the layers run on a GPU.

The code of the methods is written once, against the module that its arguments come from (`module_of`).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gossamer.checkpoint.dtypes import Array

__all__ = ["array_module", "as_stored", "floats", "module_of", "on_tensor_cores", "to_host"]

_log = logging.getLogger("gossamer")


def array_module(device: str) -> Any:
    """CuPy with `device` as its current one for "cuda:N", if CuPy is there and works; otherwise numpy."""
    kind, _, index = device.partition(":")
    cupy = _cupy(int(index or 0)) if kind == "cuda" else None
    if cupy is None:
        return np
    cupy.cuda.Device(int(index or 0)).use()
    return cupy


@functools.cache
def _cupy(index: int) -> Any:
    try:
        import cupy

        with cupy.cuda.Device(index):
            cupy.linalg.cholesky(cupy.eye(2))  # the driver, the compiler and the libraries answer
    except (ImportError, OSError, RuntimeError) as error:
        _log.warning(
            "The linear algebra of pruning runs on the CPU, much slower than on cuda:%d: CuPy does not work here (%s). "
            "Run: pip install 'gossamer[cuda]'",
            index,
            error,
        )
        return None
    return cupy


def module_of(array: Any) -> Any:
    """The module whose functions take `array`: numpy or cupy."""
    if type(array) is np.ndarray:
        return np
    import cupy

    return cupy


def to_host(array: Any) -> Array:
    """The array as a numpy array; a copy only if it is on a GPU."""
    return array if type(array) is np.ndarray else array.get()


def floats(xp: Any, values: Any) -> Any:
    """A copy in f32 as an array of `xp`; values: f32, f16, bf16 (or its bits as uint16), on the host or of `xp`."""
    if values.dtype.itemsize == 2 and values.dtype != np.float16:
        bits = xp.asarray(values.view(np.uint16)).astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return xp.asarray(values).astype(np.float32)


def as_stored(values: Any, dtype: np.dtype[Any]) -> Array:
    """f32 values of either module, rounded to f32, f16 or bf16, on the host; -0.0 becomes 0.0."""
    if dtype == np.float32 or dtype == np.float16:
        return to_host(values.astype(dtype) + dtype.type(0))
    bits = values.view(np.uint32)
    rounded = ((bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16).astype(np.uint16)  # to nearest, ties to even
    rounded[(rounded & 0x7FFF) == 0] = 0
    rounded[values != values] = 0x7FC0
    return to_host(rounded).view(dtype)


@contextmanager
def on_tensor_cores(xp: Any) -> Iterator[None]:
    """On a GPU, matrix products of f32 within may round their factors to TF32 (11 bits); sums are in f32. Nothing changes with numpy."""
    if xp is np:
        yield
        return
    from cupy._core import _routines_linalg as routines

    before = routines.get_compute_type(np.dtype(np.float32))
    routines.set_compute_type(np.dtype(np.float32), routines.COMPUTE_TYPE_TF32)
    try:
        yield
    finally:
        routines.set_compute_type(np.dtype(np.float32), before)
