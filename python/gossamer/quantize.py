"""Rounding weights to int8, int4 or fp8 with scales.

int8: one scale a row, the row's greatest magnitude on 127. fp8 (e4m3): one scale a row, the greatest magnitude on 448. int4: one scale for
every `group` columns, of a few candidates the one with the least squared error; values from -8 to 7. Zeros stay zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from gossamer.checkpoint import BitmapTensor, ScaledMatrix, pack_scaled
from gossamer.checkpoint.dtypes import Array
from gossamer.checkpoint.scaled import SCALE_GROUP_UNIT, pack_nibbles

__all__ = ["VALUES", "Quantizer", "Stored", "quantize"]

Stored = Array | BitmapTensor | ScaledMatrix

VALUES = {"int8": "i8", "int4": "i4", "fp8": "e4m3"}
_HEAD_DTYPES = {"int8": "i8", "int4": "i8", "fp8": None}  # the head is worth 8 bits; a GPU's embedding is a table of floats
_E4M3_MAX = 448.0
# Of the scale that puts the greatest magnitude on the last step: smaller ones clip it and round the rest more finely.
_INT4_CANDIDATES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)
_ROW_BLOCK = 1 << 22  # elements that are rounded at a time


def quantize(matrix: Array, dtype: str, group: int | None = None) -> ScaledMatrix:
    """Round a floating matrix [rows, cols] to "i8", "e4m3" or "i4"; `group` columns share a scale, None: all of a row."""
    rows, cols = matrix.shape
    if group is not None and group >= cols:
        group = None
    step = max(1, _ROW_BLOCK // cols)
    parts = [_quantize_rows(np.asarray(matrix[i : i + step], np.float32), dtype, group) for i in range(0, rows, step)]
    values = np.concatenate([values for values, _ in parts])
    scales = np.concatenate([scales for _, scales in parts])
    if dtype == "i4":
        values = pack_nibbles(values)
    return ScaledMatrix(dtype, (rows, cols), values, scales[:, 0] if group is None else scales, group)


def _quantize_rows(matrix: npt.NDArray[np.float32], dtype: str, group: int | None) -> tuple[Array, npt.NDArray[np.float32]]:
    """Values [rows, cols] and scales [rows, groups]."""
    rows, cols = matrix.shape
    width = cols if group is None else group
    padded = np.pad(matrix, ((0, 0), (0, -cols % width))).reshape(rows, -1, width)
    if dtype == "i4":
        values, scales = _int4(padded)
    else:
        last = 127.0 if dtype == "i8" else _E4M3_MAX
        scales = _usable(np.abs(padded).max(axis=2) / np.float32(last))
        scaled = padded / scales[:, :, None]
        values = np.rint(scaled).astype(np.int8) if dtype == "i8" else scaled.astype(ml_dtypes.float8_e4m3fn)
    return values.reshape(rows, -1)[:, :cols], scales


def _int4(groups: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Values and scales of groups [rows, groups, width]: the candidate scale with the least squared error in each group."""
    greatest, least = groups.max(axis=2), groups.min(axis=2)
    # The longer side gets 8 steps: a negative scale turns it to the negative side.
    outermost = np.where(greatest > -least, greatest, least) / np.float32(-8)
    best = np.full(outermost.shape, np.inf, np.float32)
    scales = _usable(outermost)
    for candidate in _INT4_CANDIDATES:
        tried = _usable(outermost * np.float32(candidate))
        rounded = np.clip(np.rint(groups / tried[:, :, None]), -8, 7)
        with np.errstate(over="ignore"):  # an infinite error is no less than another
            error = np.square(rounded * tried[:, :, None] - groups).sum(axis=2)
        better = error < best
        best, scales = np.where(better, error, best), np.where(better, tried, scales)
    return np.clip(np.rint(groups / scales[:, :, None]), -8, 7).astype(np.int8), scales


def _usable(scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scales to divide by: 1 for a row of zeros (or of numbers so small that their scale is none)."""
    return np.where(np.abs(scales) >= np.finfo(np.float32).tiny, scales, np.float32(1))


@dataclass(frozen=True)
class Quantizer:
    """What `--values` asks for: which tensors are rounded, and to what.

    Attributes
    ----------
    values : "int8", "int4", "fp8", or None: nothing is rounded
    group : columns that share a scale in int4; a multiple of 64
    """

    values: str | None = None
    group: int = SCALE_GROUP_UNIT

    def __post_init__(self) -> None:
        if self.values is not None and self.values not in VALUES:
            raise ValueError(f"values must be one of {', '.join(VALUES)}, not {self.values!r}")
        if self.group < SCALE_GROUP_UNIT or self.group % SCALE_GROUP_UNIT:
            raise ValueError(f"group must be a multiple of {SCALE_GROUP_UNIT}, not {self.group}")

    def dtype_of(self, role: str | None) -> str | None:
        """What a tensor with this role is rounded to, if it is: "i8", "e4m3", "i4"."""
        return None if self.values is None else {"linear": VALUES[self.values], "head": _HEAD_DTYPES[self.values], None: None}[role]

    def __call__(self, tensor: Stored, role: str | None) -> Stored:
        """The tensor to store. `role`: "linear" is rounded as asked for, "head" (or a tied embedding) to int8 unless fp8 is, None is kept.

        What is sparse stays sparse, but for values that are rounded to 0; what has scales already is kept.
        """
        dtype = self.dtype_of(role)
        if dtype is None or isinstance(tensor, ScaledMatrix) or (isinstance(tensor, BitmapTensor) and tensor.scales is not None):
            return tensor
        dense = tensor.dense() if isinstance(tensor, BitmapTensor) else tensor
        matrix = quantize(dense, dtype, self.group if dtype == "i4" else None)
        return pack_scaled(matrix) if isinstance(tensor, BitmapTensor) else matrix
