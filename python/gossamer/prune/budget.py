"""From a size or a speed that is wanted to the sparsity that gives it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from gossamer.checkpoint import TensorRecord
from gossamer.checkpoint.dtypes import DTYPES
from gossamer.convert.architectures import HEAD
from gossamer.convert.values import role_of
from gossamer.quantize import Quantizer

__all__ = ["HIGHEST_SPARSITY", "ProductTime", "rounded", "sparsity_for_bytes", "sparsity_for_speedup", "stored_bytes"]

HIGHEST_SPARSITY = 0.95

ProductTime = Callable[[int, int, float], float]  # m, k, sparsity (0 = stored dense) → time of one product, in any unit


def rounded(records: Mapping[str, TensorRecord], architecture: str, quantizer: Quantizer) -> dict[str, TensorRecord]:
    """The records of a model whose weights have been rounded: what has scales already, and what is no linear, as it is."""
    result = dict(records)
    for name, record in records.items():
        dtype = quantizer.dtype_of(role_of(name, architecture, tied=HEAD not in records))
        if dtype is not None and not record.is_scaled:
            group = quantizer.group if dtype == "i4" and quantizer.group < record.shape[1] else None
            padding = record.shape[0] if dtype == "i4" else 0  # a row's last byte may be half used
            nnz = None if record.nnz is None else record.nnz + padding
            result[name] = replace(record, dtype=dtype, scale_group=group, nnz=nnz)
    return result


def stored_bytes(
    records: Mapping[str, TensorRecord],
    targets: Collection[str],
    sparsity: float,
    side_files: Mapping[str, bytes],
    *,
    rounds: bool = False,
) -> int:
    """An upper bound, within about a megabyte, of what the model takes on disk when the targets have this sparsity together.

    rounds : targets that have scales are stored with them; otherwise they are pruned as f32
    """
    total = sum(map(len, side_files.values())) + (1 << 20)  # headers, the manifest with its digests
    for name, record in records.items():
        if name in targets:
            dtype, group = (record.dtype, record.scale_group) if rounds or record.dtype in DTYPES else ("f32", None)
            kept = round(record.size * (1 - sparsity)) + 2 * record.shape[0]  # every row's count is rounded, and an i4 row's padded
            total += replace(record, encoding="bitmap", dtype=dtype, scale_group=group, nnz=kept).stored_bytes
        else:
            total += record.stored_bytes
    return total


def sparsity_for_bytes(
    records: Mapping[str, TensorRecord],
    targets: Collection[str],
    side_files: Mapping[str, bytes],
    target: int,
    *,
    rounds: bool = False,
) -> float:
    """The least sparsity, in steps of 0.0001, with which the model takes at most `target` bytes on disk (`rounds` as in `stored_bytes`).

    Raises
    ------
    ValueError : it would take more than 95 % sparsity, or none at all; the message says what can be reached.
    """
    return _least(
        lambda sparsity: stored_bytes(records, targets, sparsity, side_files, rounds=rounds) <= target,
        lambda: (
            f"{target:,} bytes cannot be reached: at {HIGHEST_SPARSITY:.0%} sparsity the model takes "
            f"{stored_bytes(records, targets, HIGHEST_SPARSITY, side_files, rounds=rounds):,} bytes; give a larger target"
        ),
    )


def sparsity_for_speedup(products: Mapping[tuple[int, int], int], others: float, time: ProductTime, target: float) -> float:
    """The least sparsity, in steps of 0.0001, with which all products together take at most 1 / target of their dense time.

    Parameters
    ----------
    products : (m, k) → how many products of that shape are pruned
    others : dense time of the products that stay as they are (the head), in the unit of `time`

    Raises
    ------
    ValueError : it would take more than 95 % sparsity; the message says what can be reached.
    """
    dense = others + sum(count * time(m, k, 0.0) for (m, k), count in products.items())

    def speedup(sparsity: float) -> float:
        return dense / (others + sum(count * time(m, k, sparsity) for (m, k), count in products.items()))

    return _least(
        lambda sparsity: speedup(sparsity) >= target,
        lambda: (
            f"a speed-up of {target:g} cannot be reached: at {HIGHEST_SPARSITY:.0%} sparsity the weight products of a decode step take "
            f"1 / {speedup(HIGHEST_SPARSITY):.2f} of their dense time; give a smaller target"
        ),
    )


def _least(is_enough: Callable[[float], bool], failure: Callable[[], str]) -> float:
    """The least multiple of 0.0001 that is enough, of a condition that stays true once it is."""
    low, high = 0, round(HIGHEST_SPARSITY * 10000)
    if not is_enough(high / 10000):
        raise ValueError(failure())
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle / 10000) else (middle, high)
    return high / 10000
