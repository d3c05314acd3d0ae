"""The stored dtypes, in the manifest's, safetensors' and numpy's names: three floating ones, and those of values that have scales."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

__all__ = [
    "DTYPES",
    "SAFETENSORS_NAMES",
    "SCALED_DTYPES",
    "STORED_DTYPES",
    "Array",
    "bits_of",
    "dtype_name",
    "first_nonfinite",
    "is_nonzero",
]

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype(ml_dtypes.bfloat16)}
# i4: two to a byte, the first in the low bits.
SCALED_DTYPES: dict[str, np.dtype[Any]] = {
    "i8": np.dtype(np.int8),
    "e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "i4": np.dtype(np.uint8),
}
STORED_DTYPES = DTYPES | SCALED_DTYPES
SAFETENSORS_NAMES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "i8": "I8", "e4m3": "F8_E4M3", "i4": "U8"}
_BITS: dict[int, Any] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
_SIGN = {2: 0x8000, 4: 0x8000_0000}
_EXPONENT = {"f32": 0x7F80_0000, "f16": 0x7C00, "bf16": 0x7F80}


def dtype_name(array: Array) -> str:
    """ "f32", "f16" or "bf16"; TypeError for anything else."""
    for name, dtype in DTYPES.items():
        if array.dtype == dtype:
            return name
    raise TypeError(f"weights are stored as float32, float16 or bfloat16, not {array.dtype}")


def bits_of(array: Array) -> Array:
    """The same memory as unsigned integers, so that NaN payloads and -0.0 pass untouched."""
    return array.view(_BITS[array.dtype.itemsize])


def is_nonzero(array: Array) -> npt.NDArray[np.bool_]:
    """`array != 0`, by bits: both zeros are False, every NaN is True."""
    size = array.dtype.itemsize
    return (bits_of(array) & _BITS[size].type(_SIGN[size] - 1)) != 0


def first_nonfinite(array: Array) -> tuple[int, ...] | None:
    """Index of the first NaN or infinity in row-major order, or None."""
    exponent = bits_of(array).dtype.type(_EXPONENT[dtype_name(array)])
    bad = (bits_of(array) & exponent) == exponent
    if not bad.any():
        return None
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), array.shape))
