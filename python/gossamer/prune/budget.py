"""From a size or a speed that is wanted to the sparsity that gives it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from gossamer.checkpoint import TensorRecord

__all__ = ["HIGHEST_SPARSITY", "ProductTime", "sparsity_for_bytes", "sparsity_for_speedup", "stored_bytes"]

HIGHEST_SPARSITY = 0.95

ProductTime = Callable[[int, int, float], float]  # m, k, sparsity (0 = stored dense) → time of one product, in any unit

_VALUE_BYTES = {"f32": 4, "f16": 2, "bf16": 2}  # what has scales is pruned as f32


def stored_bytes(records: Mapping[str, TensorRecord], targets: Collection[str], sparsity: float, side_files: Mapping[str, bytes]) -> int:
    """An upper bound, within about a megabyte, of what the model takes on disk when the targets have this sparsity together."""
    total = sum(map(len, side_files.values())) + (1 << 20)  # headers, the manifest with its digests
    for name, record in records.items():
        value_bytes = _VALUE_BYTES.get(record.dtype, 4)
        rows, cols = record.shape if len(record.shape) == 2 else (1, record.size)
        if name in targets:
            total += round(record.size * (1 - sparsity)) * value_bytes + rows * (value_bytes + 8 + (cols + 7) // 8)
        else:
            total += record.stored_bytes
    return total


def sparsity_for_bytes(
    records: Mapping[str, TensorRecord], targets: Collection[str], side_files: Mapping[str, bytes], target: int
) -> float:
    """The least sparsity, in steps of 0.0001, with which the model takes at most `target` bytes on disk.

    Raises
    ------
    ValueError : it would take more than 95 % sparsity, or none at all; the message says what can be reached.
    """
    return _least(
        lambda sparsity: stored_bytes(records, targets, sparsity, side_files) <= target,
        lambda: (
            f"{target:,} bytes cannot be reached: at {HIGHEST_SPARSITY:.0%} sparsity the model takes "
            f"{stored_bytes(records, targets, HIGHEST_SPARSITY, side_files):,} bytes; give a larger target"
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
