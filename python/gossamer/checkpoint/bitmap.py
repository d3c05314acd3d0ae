"""A sparse matrix as bit mask, packed values and row offsets: the layout that compressed-tensors called sparse-bitmask."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gossamer.checkpoint.dtypes import Array, bits_of, dtype_name, is_nonzero
from gossamer.checkpoint.faults import fault
from gossamer.checkpoint.scaled import ScaledMatrix, check_scales, even_places, pack_nibbles, unpack_nibbles

__all__ = ["BitmapTensor", "pack", "pack_scaled", "validate"]

_BLOCK_ELEMENTS = 1 << 20  # packed by one thread at a time
_POPCOUNT = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


@dataclass(frozen=True)
class BitmapTensor:
    """One sparse matrix.

    Attributes
    ----------
    shape : (rows, cols)
    values : the kept values, row-major: f32, f16 or bf16 [nnz]; of a scaled dtype int8, float8_e4m3fn, or packed i4 as uint8 [nnz / 2]
    bitmask : u8 [rows, ceil(cols / 8)]; column c is bit c % 8, least significant first, of byte c // 8; pad bits are 0
    row_offsets : i64 [rows]; exclusive prefix sum of the rows' counts of values; in i4 these are even, with a 0 behind an odd number
    scaled_dtype : "i8", "e4m3", "i4", or None for floating values
    scales : f32 [rows], or [rows, ceil(cols / group)]; W[r, c] = value · scales[r, c // group]
    group : columns that share a scale; None: all of a row
    """

    shape: tuple[int, int]
    values: Array
    bitmask: npt.NDArray[np.uint8]
    row_offsets: npt.NDArray[np.int64]
    scaled_dtype: str | None = None
    scales: npt.NDArray[np.float32] | None = None
    group: int | None = None

    @property
    def dtype(self) -> str:
        """The manifest's name."""
        return self.scaled_dtype or dtype_name(self.values)

    @property
    def nnz(self) -> int:
        """Stored values."""
        return int(self.values.size) * (2 if self.scaled_dtype == "i4" else 1)

    @property
    def nbytes(self) -> int:
        """Bytes on disk, the shape's two integers included."""
        scale_bytes = 0 if self.scales is None else self.scales.nbytes
        return self.values.nbytes + self.bitmask.nbytes + self.row_offsets.nbytes + scale_bytes + 16

    def mask(self) -> npt.NDArray[np.bool_]:
        """The mask as bool [rows, cols]."""
        return np.unpackbits(self.bitmask, axis=1, count=self.shape[1], bitorder="little").view(np.bool_)

    def dense(self) -> Array:
        """The matrix [rows, cols] (f32 where there are scales); what is not kept is +0.0."""
        if self.scaled_dtype is not None:
            return self.scaled().dense()
        out = np.zeros(self.shape, self.values.dtype)
        bits_of(out)[self.mask()] = bits_of(self.values)
        return out

    def scaled(self) -> ScaledMatrix:
        """The matrix with its scales, dense; the inverse of `pack_scaled`."""
        assert self.scaled_dtype is not None
        assert self.scales is not None
        mask, halves = self.mask(), self.scaled_dtype == "i4"
        kept = self.values
        if halves:
            counts = np.count_nonzero(mask, axis=1).astype(np.int64)
            kept = unpack_nibbles(self.values, self.nnz)[even_places(counts)]
        values = np.zeros(self.shape, kept.dtype)
        values.view(np.uint8)[mask] = kept.view(np.uint8)
        return ScaledMatrix(self.scaled_dtype, self.shape, pack_nibbles(values) if halves else values, self.scales, self.group)


def pack(matrix: Array, mask: npt.NDArray[np.bool_] | None = None) -> BitmapTensor:
    """Pack `matrix` [rows, cols]. Without a mask, what is != 0 is kept (so -0.0 is dropped and NaN kept)."""
    if matrix.ndim != 2:
        raise ValueError(f"a bitmap holds a matrix, not a tensor of shape {matrix.shape}")
    matrix = np.ascontiguousarray(matrix)
    given = None if mask is None else np.asarray(mask)
    if given is not None and (given.dtype != np.bool_ or given.shape != matrix.shape):
        raise ValueError(f"mask must be bool of shape {matrix.shape}, not {given.dtype} of shape {given.shape}")
    rows, cols = matrix.shape
    bitmask = np.empty((rows, (cols + 7) // 8), np.uint8)
    counts = np.empty(rows, np.int64)
    step = max(1, _BLOCK_ELEMENTS // max(1, cols))

    def pack_rows(begin: int) -> Array:
        block = slice(begin, begin + step)
        kept = is_nonzero(matrix[block]) if given is None else given[block]
        counts[block] = np.count_nonzero(kept, axis=1)
        bitmask[block] = np.packbits(kept, axis=1, bitorder="little")
        return bits_of(matrix[block])[kept]

    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        values = list(pool.map(pack_rows, range(0, rows, step)))
    offsets = np.zeros(rows, np.int64)
    np.cumsum(counts[:-1], out=offsets[1:])
    kept_bits = np.concatenate(values) if values else bits_of(matrix).reshape(-1)
    return BitmapTensor(shape=(rows, cols), values=kept_bits.view(matrix.dtype), bitmask=bitmask, row_offsets=offsets)


def pack_scaled(matrix: ScaledMatrix) -> BitmapTensor:
    """Pack a matrix of scaled values; what is not 0 is kept."""
    values = matrix.unpacked()
    kept = (values.view(np.uint8) & (0x7F if matrix.dtype == "e4m3" else 0xFF)) != 0
    counts = np.count_nonzero(kept, axis=1).astype(np.int64)
    stored = values[kept]
    if matrix.dtype == "i4":
        padded = np.zeros(int(((counts + 1) // 2 * 2).sum()), np.int8)
        padded[even_places(counts)] = stored
        counts, stored = (counts + 1) // 2 * 2, pack_nibbles(padded)
    offsets = np.zeros(len(counts), np.int64)
    np.cumsum(counts[:-1], out=offsets[1:])
    return BitmapTensor(
        shape=matrix.shape,
        values=stored,
        bitmask=np.packbits(kept, axis=1, bitorder="little"),
        row_offsets=offsets,
        scaled_dtype=matrix.dtype,
        scales=matrix.scales,
        group=matrix.group,
    )


def validate(tensor: BitmapTensor, name: str = "", file: str = "") -> None:
    """Check what a reader may trust: shapes, pad bits, and every row's count against its offsets."""
    rows, cols = tensor.shape
    width = (cols + 7) // 8
    if rows < 0 or cols < 0 or tensor.bitmask.shape != (rows, width):
        raise fault(
            "The bit mask has the wrong shape", file=file, tensor=name, field="bitmask", expected=(rows, width), found=tensor.bitmask.shape
        )
    if tensor.row_offsets.shape != (rows,):
        raise fault(
            "There must be one row offset per row",
            file=file,
            tensor=name,
            field="row_offsets",
            expected=(rows,),
            found=tensor.row_offsets.shape,
        )
    if cols % 8 and rows:
        padded = np.flatnonzero(tensor.bitmask[:, -1] >> (cols % 8))
        if padded.size:
            raise fault("Pad bits of the bit mask are set", file=file, tensor=name, field="bitmask", expected="0", found=f"row {padded[0]}")
    counts = _POPCOUNT[tensor.bitmask].sum(axis=1, dtype=np.int64)
    kept = counts
    if tensor.scaled_dtype == "i4":
        counts = (counts + 1) // 2 * 2
    ends = np.append(tensor.row_offsets[1:], tensor.nnz)
    if rows and tensor.row_offsets[0] != 0:
        raise fault(
            "The first row offset is not 0", file=file, tensor=name, field="row_offsets", expected="0", found=int(tensor.row_offsets[0])
        )
    wrong = np.flatnonzero(ends - tensor.row_offsets != counts)
    if wrong.size:
        row = int(wrong[0])
        raise fault(
            f"The bit mask and the row offsets disagree in row {row}",
            file=file,
            tensor=name,
            field="row_offsets",
            expected=f"{int(counts[row])} values",
            found=f"{int(ends[row] - tensor.row_offsets[row])}",
        )
    if not rows and tensor.nnz:
        raise fault("A matrix without rows holds values", file=file, tensor=name, field="compressed", expected="0", found=tensor.nnz)
    if tensor.scaled_dtype is not None:
        check_scales(np.zeros(0, np.float32) if tensor.scales is None else tensor.scales, tensor.group, tensor.shape, name, file)
        if tensor.scaled_dtype == "i4":
            odd = np.flatnonzero(kept % 2)
            used = np.flatnonzero(tensor.values[(tensor.row_offsets[odd] + kept[odd]) // 2] >> 4)
            if used.size:
                raise fault("The unused half of a row's last byte is not 0", file=file, tensor=name, field="compressed",
                            expected="0", found=f"row {odd[used[0]]}")  # fmt: skip
