"""Small public-domain texts for calibration and evaluation; README.md beside this file names their sources."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CALIBRATION", "EVALUATION", "PROMPTS"]

_HERE = Path(__file__).resolve().parent

# Prose, technical prose, dialogue and code: what a pruned model should still be good at.
CALIBRATION = tuple(
    _HERE / name for name in ("calibration_prose.txt", "calibration_technical.txt", "calibration_chat.jsonl", "calibration_code.txt")
)
# Other books and other documents than those of the calibration.
EVALUATION = tuple(_HERE / name for name in ("evaluation_prose.txt", "evaluation_technical.txt"))
# What the demo and reports ask a chat model.
PROMPTS = ("What is the capital of France?", "What is gravity?", "Give me three reasons to learn to cook.")
