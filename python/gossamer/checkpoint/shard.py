"""Safetensors headers: built for our shards, and parsed strictly from anyone's."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

from gossamer.checkpoint.faults import fault
from gossamer.checkpoint.strict_json import parse_object

__all__ = ["ITEM_BYTES", "MAX_HEADER_BYTES", "Part", "build_header", "parse_header"]

MAX_HEADER_BYTES = 100 * 1024 * 1024
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One physical tensor of a safetensors file; `offset` counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def build_header(parts: list[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """Length, JSON header, and spaces so that the data, in the given order without gaps, starts 8-byte aligned."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, dtype, shape in parts:
        if name in header:
            raise ValueError(f"two tensors would be stored under the name {name!r}")
        end = position + math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"a shard's header would take {len(text)} bytes; at most {MAX_HEADER_BYTES} are allowed")
    return struct.pack("<Q", len(text)) + text


def header_length(first_bytes: bytes, file_bytes: int, file: str) -> int:
    """The length in the first 8 bytes, checked before anything of that size is read."""
    if len(first_bytes) < 8:
        raise fault(
            "The file is too short for a safetensors file", file=file, offset=0, expected="at least 8 bytes", found=len(first_bytes)
        )
    (length,) = struct.unpack("<Q", first_bytes[:8])
    limit = min(MAX_HEADER_BYTES, file_bytes - 8)
    if not 2 <= length <= limit:
        raise fault("The header's length is impossible", file=file, offset=0, field="header length", expected=f"2 to {limit}", found=length)
    return int(length)


def parse_header(text: bytes, file_bytes: int, file: str, *, any_order: bool = False) -> dict[str, Part]:
    """Parse and check a header: known dtypes, exact sizes, no hole, overlap, trailing byte, or (unless `any_order`) disorder."""
    if not text.startswith(b"{"):
        raise fault("The header does not begin with {", file=file, offset=8)
    raw = parse_object(text, file, max_depth=8)
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise fault("The metadata must map strings to strings", file=file, field="__metadata__")
    start = 8 + len(text)
    parts = {name: _part(name, entry, start, file) for name, entry in raw.items()}
    position = start
    for name, part in sorted(parts.items(), key=lambda item: (item[1].offset, item[1].nbytes)) if any_order else parts.items():
        if part.offset != position:
            raise fault("Tensors must follow each other without hole or overlap", file=file, tensor=name, field="data_offsets",
                        expected=f"start {position - start}", found=part.offset - start)  # fmt: skip
        position += part.nbytes
    if position != file_bytes:
        raise fault("The file's size is not that of its tensors", file=file, field="data_offsets",
                    expected=f"{position} bytes", found=file_bytes,
                    fix="The file is cut off or was changed: download it again")  # fmt: skip
    return parts


def _part(name: str, entry: Any, start: int, file: str) -> Part:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise fault("A tensor's entry has the wrong members", file=file, tensor=name, expected="data_offsets, dtype, shape")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise fault("Unknown dtype", file=file, tensor=name, field="dtype", found=dtype)

    def counts(value: Any, at_most: int) -> bool:
        return isinstance(value, list) and len(value) <= at_most and all(type(n) is int and 0 <= n < 2**62 for n in value)

    if not counts(shape, 8):
        raise fault("Not a shape", file=file, tensor=name, field="shape", found=shape)
    if not counts(offsets, 2) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise fault("Not a pair of offsets", file=file, tensor=name, field="data_offsets", found=offsets)
    nbytes = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise fault(
            "The offsets do not hold the tensor", file=file, tensor=name, field="data_offsets", expected=f"{nbytes} bytes", found=offsets
        )
    return Part(dtype, tuple(shape), start + offsets[0], nbytes)
