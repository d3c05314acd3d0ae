"""The sparse layouts of compressed-tensors (0.5 to 0.14) and SparseML: sparse-bitmask and sparse-24-bitmask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gossamer.checkpoint.bitmap import BitmapTensor, validate
from gossamer.checkpoint.dtypes import Array
from gossamer.checkpoint.faults import fault

__all__ = ["expand", "group", "without_compression"]

_PARTS = ("shape", "compressed", "bitmask", "row_offsets")
_FORMATS = ("dense", "sparse-bitmask", "sparse-24-bitmask")


def without_compression(config: dict[str, Any]) -> dict[str, Any]:
    """config.json without its compression, which conversion undoes; CheckpointError for real quantisation."""
    out = dict(config)
    for key in ("quantization_config", "compression_config"):
        raw = out.pop(key, None)
        if raw is None:
            continue
        if not isinstance(raw, dict) or raw.get("quant_method", "compressed-tensors") != "compressed-tensors" or raw.get("config_groups"):
            method = raw.get("quant_method", "compressed-tensors") if isinstance(raw, dict) else raw
            raise fault("Quantised Hugging Face checkpoints are not supported", file="config.json", field=key, found=method,
                        fix="Convert the unquantised checkpoint, or a GGUF file")  # fmt: skip
        sparsity = raw.get("sparsity_config") or {}
        for form in (raw.get("format", "dense"), sparsity.get("format", "dense") if isinstance(sparsity, dict) else sparsity):
            if form not in _FORMATS:
                raise fault("This compression is not supported", file="config.json", field=f"{key}.format",
                            expected="one of " + ", ".join(_FORMATS), found=form)  # fmt: skip
    return out


def group(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Gather physical names into logical tensors.

    Returns logical name → {"": physical name} for a dense tensor, or {"shape": …, "compressed": …, "bitmask": …, "row_offsets": …}.
    A sparse `P.weight` is spelt `P.bitmask` since 0.9 and `P.weight.bitmask` before.
    """
    present = set(names)
    bases = {name.removesuffix(".bitmask") for name in present if name.endswith(".bitmask")}
    out: dict[str, dict[str, str]] = {}
    for base in bases:
        logical = base if base.endswith((".weight", ".bias")) else f"{base}.weight"
        parts = {part: f"{base}.{part}" for part in _PARTS if f"{base}.{part}" in present}
        if logical in out or logical in present:
            raise fault("A tensor is stored twice, in two spellings", tensor=logical)
        out[logical] = parts
        present -= set(parts.values())
    return out | {name: {"": name} for name in present}


def expand(name: str, file: str, parts: dict[str, str], read: Callable[[str], Array]) -> Array:
    """The dense array of a sparse tensor, everything checked before it is used."""
    missing = [part for part in ("shape", "compressed", "bitmask") if part not in parts]
    if missing:
        raise fault("A part of a sparse tensor is missing", file=file, tensor=name, field=missing[0])
    shape = logical_shape(name, file, read(parts["shape"]))
    values, bitmask = read(parts["compressed"]), read(parts["bitmask"])
    rows, cols = math.prod(shape[:-1]), shape[-1]
    if bitmask.dtype != np.uint8 or bitmask.size != rows * ((cols + 7) // 8):
        raise fault("The bit mask has the wrong shape", file=file, tensor=name, field="bitmask",
                    expected=(*shape[:-1], (cols + 7) // 8), found=bitmask.shape)  # fmt: skip
    bitmask = bitmask.reshape(rows, (cols + 7) // 8)
    counts = np.unpackbits(bitmask, axis=1).sum(axis=1, dtype=np.int64)
    offsets = np.cumsum(counts) - counts
    if "row_offsets" not in parts:
        values = _check_two_of_four(name, file, (rows, cols), values, bitmask)
    elif len(shape) <= 2:  # of higher ranks the offsets were summed over the first dimension only; the mask itself says all
        offsets = read(parts["row_offsets"]).reshape(-1)
    if values.ndim != 1:
        raise fault("The values must be a vector", file=file, tensor=name, field="compressed", found=values.shape)
    tensor = BitmapTensor((rows, cols), values, bitmask, offsets)
    validate(tensor, name, file)
    return tensor.dense().reshape(shape)


def logical_shape(name: str, file: str, stored: Array) -> tuple[int, ...]:
    """The shape from its tensor: [rank], or [rank, 1] in sparse-24-bitmask."""
    shape = tuple(int(n) for n in stored.reshape(-1)) if stored.dtype == np.int64 else ()
    if not shape or len(shape) > 8 or any(not 0 <= n < 2**40 for n in shape) or math.prod(shape) >= 2**48:
        raise fault("Not a shape", file=file, tensor=name, field="shape", found=stored.reshape(-1)[:8].tolist())
    return shape


def _check_two_of_four(name: str, file: str, shape: tuple[int, int], values: Array, bitmask: Array) -> Array:
    rows, cols = shape
    if cols % 4 or values.shape != (rows, cols // 2):
        raise fault("The values of a 2:4 tensor must be half of it", file=file, tensor=name, field="compressed",
                    expected=(rows, cols // 2), found=values.shape)  # fmt: skip
    mask = np.unpackbits(bitmask, axis=1, count=cols, bitorder="little")
    wrong = np.argwhere(mask.reshape(rows, cols // 4, 4).sum(axis=2) != 2)
    if wrong.size:
        row, quad = (int(i) for i in wrong[0])
        raise fault(
            "Two of every four must be kept",
            file=file,
            tensor=name,
            field="bitmask",
            found=f"row {row}, columns {4 * quad} to {4 * quad + 3}",
        )
    return values.reshape(-1)
