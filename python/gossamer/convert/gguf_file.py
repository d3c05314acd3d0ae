"""GGUF files, versions 2 and 3, little-endian: metadata and tensors, read by position and checked before they are trusted."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gossamer.checkpoint.dtypes import Array
from gossamer.checkpoint.faults import fault
from gossamer.checkpoint.safe_files import SafeFile, open_in

__all__ = ["GgufFile", "GgufTensor"]

_FIX = "The file is damaged or not a GGUF file of version 2 or 3: download it again"
_BLOCK = 1 << 20
_MAX_TENSORS = 1_000_000
_MAX_DIMS = 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: dict[int, tuple[str, int]] = {
    0: ("<u1", 1), 1: ("<i1", 1), 2: ("<u2", 2), 3: ("<i2", 2), 4: ("<u4", 4), 5: ("<i4", 4),
    6: ("<f4", 4), 7: ("<u1", 1), 10: ("<u8", 8), 11: ("<i8", 8), 12: ("<f8", 8),
}  # fmt: skip
# The types that need no dequantisation; their numbers in the file.
_PLAIN: dict[int, tuple[str, np.dtype[Any]]] = {
    0: ("f32", np.dtype("<f4")),
    1: ("f16", np.dtype("<f2")),
    30: ("bf16", np.dtype(ml_dtypes.bfloat16)),
}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor; `shape` as numpy has it (GGUF lists it reversed), `offset` from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type_number: int
    offset: int
    nbytes: int

    @property
    def plain_dtype(self) -> str | None:
        """ "f32", "f16", "bf16", or None when quantised."""
        return _PLAIN[self.type_number][0] if self.type_number in _PLAIN else None


class _Cursor:
    """Reads forward through the metadata; nothing beyond the end of the file is ever asked for or allocated."""

    def __init__(self, file: SafeFile) -> None:
        self._file = file
        self._buffer, self._start = bytearray(), 0
        self.position = 0

    def take(self, size: int, what: str) -> memoryview:
        if size < 0 or size > self._file.size - self.position:
            raise fault(f"The file ends inside {what}", file=self._file.name, offset=self.position, fix=_FIX)
        begin = self.position - self._start
        if begin + size > len(self._buffer):
            self._buffer = self._file.read(self.position, min(max(size, _BLOCK), self._file.size - self.position))
            self._start, begin = self.position, 0
        self.position += size
        return memoryview(self._buffer)[begin : begin + size]

    def unsigned(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def string(self, what: str) -> str:
        length = self.unsigned(8, what)
        at = self.position
        try:
            return str(self.take(length, what), "utf-8")
        except UnicodeDecodeError as error:
            raise fault(f"{what} is not UTF-8", file=self._file.name, offset=at, fix=_FIX) from error

    def value(self, kind: int, key: str, depth: int = 0) -> Any:
        what = f"the metadata {key}"
        if kind == _STRING:
            return self.string(what)
        if kind in _SCALARS:
            return self._scalars(kind, 1, what)[0]
        if kind != _ARRAY or depth > 2:
            raise fault("Unknown metadata type", file=self._file.name, offset=self.position, field=key, found=kind, fix=_FIX)
        item, count = self.unsigned(4, what), self.unsigned(8, what)
        if item in _SCALARS:
            return self._scalars(item, count, what)
        if count > (self._file.size - self.position) // 8:  # a string or an array takes 8 bytes at least
            raise fault(f"The file ends inside {what}", file=self._file.name, offset=self.position, fix=_FIX)
        return [self.value(item, key, depth + 1) for _ in range(count)]

    def _scalars(self, kind: int, count: int, what: str) -> list[Any]:
        dtype, size = _SCALARS[kind]
        values = np.frombuffer(self.take(count * size, what), dtype).tolist()
        return [bool(v) for v in values] if kind == _BOOL else values


class GgufFile:
    """An open GGUF file.

    Attributes
    ----------
    metadata : key → int, float, bool, str or list.
    tensors : name → GgufTensor.
    """

    def __init__(self, path: Path) -> None:
        self.file = open_in(path.parent, path.name, allow_symlinks=True)
        try:
            cursor = _Cursor(self.file)
            num_tensors, num_keys = self._read_preamble(cursor)
            self.metadata = self._read_metadata(cursor, num_keys)
            self.tensors = self._read_tensors(cursor, num_tensors)
        except BaseException:
            self.file.close()
            raise

    def _wrong(self, what: str, **where: Any) -> Exception:
        return fault(what, file=self.file.name, fix=_FIX, **where)

    def _read_preamble(self, cursor: _Cursor) -> tuple[int, int]:
        if bytes(cursor.take(4, "its first 4 bytes")) != b"GGUF":
            raise self._wrong("The file does not begin with GGUF", offset=0)
        version = cursor.unsigned(4, "the version")
        if version not in (2, 3):
            big = version > 0xFFFF
            text = "Big-endian GGUF files are not supported" if big else "This GGUF version is not supported"
            raise self._wrong(text, offset=4, field="version", expected="2 or 3", found=version)
        num_tensors, num_keys = cursor.unsigned(8, "the header"), cursor.unsigned(8, "the header")
        if num_tensors > _MAX_TENSORS or num_keys > _MAX_TENSORS:
            raise self._wrong(
                "Too many tensors or metadata", offset=8, expected=f"at most {_MAX_TENSORS}", found=max(num_tensors, num_keys)
            )
        return num_tensors, num_keys

    def _read_metadata(self, cursor: _Cursor, count: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for _ in range(count):
            key = cursor.string("a metadata key")
            if key in out:
                raise self._wrong("A metadata key occurs twice", field=key)
            out[key] = cursor.value(cursor.unsigned(4, f"the metadata {key}"), key)
        return out

    def _read_tensors(self, cursor: _Cursor, count: int) -> dict[str, GgufTensor]:
        entries = []
        for _ in range(count):
            name = cursor.string("a tensor's name")
            dims = cursor.unsigned(4, "a tensor's rank")
            if dims > _MAX_DIMS:
                raise self._wrong("A tensor has too many dimensions", tensor=name, expected=f"at most {_MAX_DIMS}", found=dims)
            shape = tuple(cursor.unsigned(8, "a tensor's shape") for _ in range(dims))[::-1]
            entries.append((name, shape, cursor.unsigned(4, "a tensor's type"), cursor.unsigned(8, "a tensor's offset")))
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self._wrong("Not an alignment", field="general.alignment", expected="a power of two", found=alignment)
        start = -(-cursor.position // alignment) * alignment
        out: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in entries:
            if name in out:
                raise self._wrong("A tensor occurs twice", tensor=name)
            nbytes = self._nbytes(name, shape, kind)
            if offset % alignment or offset + nbytes > self.file.size - start:
                raise self._wrong("A tensor lies outside of the file", tensor=name, field="offset",
                                  expected=f"0 to {self.file.size - start - nbytes}", found=offset)  # fmt: skip
            out[name] = GgufTensor(name, shape, kind, start + offset, nbytes)
        end = 0
        for tensor in sorted(out.values(), key=lambda t: t.offset):
            if tensor.offset < end:
                raise self._wrong("Two tensors overlap", tensor=tensor.name, field="offset")
            end = tensor.offset + tensor.nbytes
        return out

    def _nbytes(self, name: str, shape: tuple[int, ...], kind: int) -> int:
        size = math.prod(shape)
        if kind in _PLAIN:
            return size * _PLAIN[kind][1].itemsize
        quants = _gguf_package()
        try:
            items, nbytes = quants.GGML_QUANT_SIZES[quants.GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            raise self._wrong("Unknown tensor type", tensor=name, field="type", found=kind) from None
        if not shape or shape[-1] % items:
            raise self._wrong(
                "A row is not a whole number of blocks", tensor=name, field="shape", expected=f"a multiple of {items}", found=shape
            )
        return size // items * int(nbytes)

    def read(self, tensor: GgufTensor) -> Array:
        """The values: f32, f16 and bf16 as they are, quantised blocks expanded to f32."""
        data = self.file.read(tensor.offset, tensor.nbytes)
        if tensor.type_number in _PLAIN:
            return np.frombuffer(data, _PLAIN[tensor.type_number][1]).reshape(tensor.shape)
        package = _gguf_package()
        from gguf import quants

        kind = package.GGMLQuantizationType(tensor.type_number)
        try:
            values = quants.dequantize(np.frombuffer(data, np.uint8).reshape(*tensor.shape[:-1], -1), kind)
        except NotImplementedError as error:
            raise fault(f"The gguf package cannot expand {kind.name} blocks", file=self.file.name, tensor=tensor.name,
                        fix="Convert a GGUF file of another quantisation, such as Q8_0 or Q4_K_M") from error  # fmt: skip
        return np.ascontiguousarray(values, np.float32).reshape(tensor.shape)


def _gguf_package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ImportError("Quantised GGUF files need the gguf package: pip install 'gossamer[gguf]'") from error
    return gguf


def pack_f32(value: float) -> float:
    """The shortest decimal that is the same f32: GGUF stores 1e-05 as 9.99999974e-06."""
    return float(str(np.float32(struct.unpack("<f", struct.pack("<f", value))[0])))
