"""Dense weights of small values and their scales: W[r, c] = values[r, c] · scales[r, c // group]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gossamer.checkpoint.dtypes import Array
from gossamer.checkpoint.faults import fault

__all__ = [
    "SCALE_GROUP_UNIT",
    "ScaledMatrix",
    "check_scales",
    "even_places",
    "pack_nibbles",
    "unpack_nibbles",
    "validate_scaled",
]

SCALE_GROUP_UNIT = 64  # a group is a whole row, or a multiple of this many columns


def pack_nibbles(values: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """int8 [.., n] in -8 .. 7 → uint8 [.., ceil(n / 2)]; the first of two in the low bits, 0 behind an odd number."""
    odd = values.shape[-1] % 2
    padded = np.concatenate([values, np.zeros((*values.shape[:-1], odd), np.int8)], axis=-1) if odd else values
    bits = padded.view(np.uint8) & 15
    return (bits[..., 0::2] | bits[..., 1::2] << 4).astype(np.uint8)


def unpack_nibbles(packed: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.int8]:
    """The inverse: the first `count` values of the last axis."""
    both = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)[..., :count]
    return ((both ^ 8).astype(np.int8) - 8).astype(np.int8)


@dataclass(frozen=True)
class ScaledMatrix:
    """A dense matrix [rows, cols].

    Attributes
    ----------
    dtype : "i8", "e4m3" or "i4"
    shape : (rows, cols)
    values : as stored: int8 or float8_e4m3fn [rows, cols], or packed i4 as uint8 [rows, ceil(cols / 2)]
    scales : f32 [rows], or [rows, ceil(cols / group)]
    group : columns that share a scale; None: all of a row
    """

    dtype: str
    shape: tuple[int, int]
    values: Array
    scales: npt.NDArray[np.float32]
    group: int | None = None

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes

    def unpacked(self) -> Array:
        """The values as int8 or float8_e4m3fn [rows, cols]."""
        return unpack_nibbles(self.values, self.shape[1]) if self.dtype == "i4" else self.values

    def dense(self) -> npt.NDArray[np.float32]:
        """What the values stand for."""
        return self.unpacked().astype(np.float32) * column_scales(self.scales, self.group, self.shape[1])


def column_scales(scales: npt.NDArray[np.float32], group: int | None, cols: int) -> npt.NDArray[np.float32]:
    """The scales, broadcastable to [rows, cols]."""
    return scales.reshape(-1, 1) if group is None else np.repeat(scales, group, axis=1)[:, :cols]


def even_places(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where the values of rows of these counts go when every row takes an even number of places."""
    gaps = np.cumsum(counts % 2) - counts % 2
    return np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(gaps, counts)


def check_scales(scales: npt.NDArray[np.float32], group: int | None, shape: tuple[int, int], name: str = "", file: str = "") -> None:
    """Check the number of scales, the group, and that every scale is finite; CheckpointError says what is wrong."""
    rows, cols = shape
    if group is not None and not (0 < group < cols and group % SCALE_GROUP_UNIT == 0):
        raise fault("So many columns cannot share a scale", file=file, tensor=name, field="scale_group",
                    expected=f"None, or less than {cols} and a multiple of {SCALE_GROUP_UNIT}", found=group)  # fmt: skip
    expected = (rows,) if group is None else (rows, -(-cols // group))
    if scales.dtype != np.float32 or scales.shape != expected:
        raise fault("The scales have the wrong shape", file=file, tensor=name, field="scale", expected=expected, found=scales.shape)
    bad = np.argwhere(~np.isfinite(scales))
    if bad.size:
        raise fault("A scale is not finite", file=file, tensor=name, field="scale", found=f"row {bad[0][0]}")


def validate_scaled(matrix: ScaledMatrix, name: str = "", file: str = "") -> None:
    """Check what a reader may trust: shapes, scales, and the unused half of odd rows."""
    rows, cols = matrix.shape
    check_scales(matrix.scales, matrix.group, matrix.shape, name, file)
    expected = (rows, (cols + 1) // 2) if matrix.dtype == "i4" else (rows, cols)
    if matrix.values.shape != expected:
        raise fault("The values have the wrong shape", file=file, tensor=name, field="values", expected=expected, found=matrix.values.shape)
    if matrix.dtype == "i4" and cols % 2 and (matrix.values[:, -1] >> 4).any():
        row = int(np.argmax(matrix.values[:, -1] >> 4 != 0))
        raise fault("The unused half of a row's last byte is not 0", file=file, tensor=name, field="values", found=f"row {row}")
