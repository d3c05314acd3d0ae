"""What a decode step's weight products cost, dense or sparse: what a wanted speed-up is turned into a sparsity with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from gossamer.prune.budget import ProductTime, sparsity_for_speedup

__all__ = ["DEVICES", "device_here", "product_time", "products_of", "sparsity_for"]

DEVICES = ("cpu", "h100")
_TOKENS = 8  # of a decode step: the batch that the GPU's times are taken for; on the CPU the bytes decide, whatever the batch

_STACKED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # the runtime multiplies by these as one matrix


def device_here() -> str:
    """ "h100" where the CUDA backend finds a GPU (its times are the only ones measured), else "cpu"."""
    from gossamer import _core
    from gossamer.errors import DeviceError

    try:
        return "h100" if _core.probe_backend("cuda")["devices"] else "cpu"
    except DeviceError:
        return "cpu"


def product_time(device: str) -> ProductTime:
    """On the CPU the bytes of the weight: two for each value that is left and a bit for every position. On the GPU the kernels' µs."""
    if device == "cpu":
        return lambda m, k, sparsity: m * k * (2.0 if sparsity == 0 else min(2.0, 2 * (1 - sparsity) + 0.125))
    if device == "h100":
        from gossamer import _core

        return lambda m, k, sparsity: _core.product_us(m, k, _TOKENS, sparsity)
    raise ValueError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")


def products_of(shapes: Mapping[str, tuple[int, ...]], names: Collection[str]) -> Counter[tuple[int, int]]:
    """(m, k) → number of products with the weights `names`, stacked as the runtime stacks them."""
    rows: dict[str, int] = {}
    for name in names:
        layer, _, projection = name.removesuffix(".weight").rpartition(".")
        stack = next((s for s in _STACKED if projection in s), (projection,))
        key = f"{layer}.{stack[0]} {shapes[name][1]}"
        rows[key] = rows.get(key, 0) + shapes[name][0]
    return Counter((m, int(key.rpartition(" ")[2])) for key, m in rows.items())


def sparsity_for(
    target: float, device: str, shapes: Mapping[str, tuple[int, ...]], targets: Collection[str], head: tuple[int, int]
) -> float:
    """The least sparsity with which a decode step's weight products take 1 / `target` of their dense time on the device.

    Parameters
    ----------
    targets : the weights that are pruned; other projections and the head [m, k] stay dense
    """
    from gossamer.prune.select import is_prunable

    time = product_time(device)
    others = [name for name, shape in shapes.items() if is_prunable(name, shape) and name not in set(targets)]
    dense = sum(count * time(m, k, 0.0) for (m, k), count in products_of(shapes, others).items()) + time(*head, 0.0)
    return sparsity_for_speedup(products_of(shapes, targets), dense, time, target)
