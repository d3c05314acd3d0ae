"""How well a model predicts text."""

from __future__ import annotations

from gossamer.evaluate.divergence import Divergence, compare_layers
from gossamer.evaluate.perplexity import WINDOW, Comparison, EvaluationText, TextScore, compare, pooled, score_text

__all__ = ["WINDOW", "Comparison", "Divergence", "EvaluationText", "TextScore", "compare", "compare_layers", "pooled", "score_text"]
