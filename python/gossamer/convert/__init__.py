"""Turns checkpoints of other tools into model directories: Hugging Face safetensors (dense or sparse-bitmask) and GGUF."""

from __future__ import annotations

from gossamer.convert.architectures import SUPPORTED_ARCHITECTURES
from gossamer.convert.run import ConvertOptions, convert, open_source
from gossamer.convert.values import quantize_model

__all__ = ["SUPPORTED_ARCHITECTURES", "ConvertOptions", "convert", "open_source", "quantize_model"]
