"""The report's plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

try:
    import matplotlib
except ImportError as error:
    raise ImportError("a report draws a plot and needs matplotlib; run: pip install 'gossamer[plot]'") from error

matplotlib.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from gossamer.prune.report import Measured

__all__ = ["draw"]


def draw(models: Sequence[Measured], path: Path) -> None:
    """Perplexity against sparsity, every layer's error, every layer's density; the dense model first."""
    figure, (quality, errors, densities) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for name in models[0].scores:
        scores = [model.scores[name] for model in models]
        x = [100 * model.sparsity for model in models]
        quality.errorbar(x, [s.perplexity for s in scores], [s.perplexity_se for s in scores], marker="o", capsize=3, label=name)
    for model in models[1:]:
        assert model.divergences is not None
        label = f"{model.sparsity:.0%}"
        errors.plot(np.mean([found.layer_errors for found in model.divergences.values()], axis=0), marker=".", label=label)
        for part, values in model.densities.items():
            densities.plot(100 * values, marker=".", label=f"{label}, {part}")
    quality.set(xlabel="sparsity of the projections, %", ylabel="perplexity ± standard error", yscale="log")
    errors.set(xlabel="layer", ylabel="error of the hidden states, ‖h - h̄‖ ÷ ‖h̄‖", ylim=(0, None))
    densities.set(xlabel="layer", ylabel="weights left, %", ylim=(0, 100))
    for axes in (quality, errors, densities):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)
