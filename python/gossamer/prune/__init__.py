"""One-shot pruning, without retraining: magnitude, Wanda, SparseGPT and ALPS, layer by layer on our own runtime."""

from __future__ import annotations

from gossamer.prune.calibration import CalibrationSet
from gossamer.prune.masks import METHODS, keep_masks
from gossamer.prune.pipeline import PruneReport, prune
from gossamer.prune.select import is_prunable

__all__ = ["METHODS", "CalibrationSet", "PruneReport", "is_prunable", "keep_masks", "prune"]
