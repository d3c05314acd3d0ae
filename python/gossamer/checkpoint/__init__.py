"""Model directories as files: the manifest, the writer and the reader (docs/checkpoint-format.md). Pure Python and numpy."""

from __future__ import annotations

from gossamer.checkpoint.bitmap import BitmapTensor, pack, pack_scaled, validate
from gossamer.checkpoint.dtypes import DTYPES, dtype_name
from gossamer.checkpoint.manifest import MANIFEST_NAME, Manifest, TensorRecord
from gossamer.checkpoint.reader import ModelReader, is_model_directory
from gossamer.checkpoint.scaled import ScaledMatrix
from gossamer.checkpoint.writer import ModelWriter

__all__ = [
    "DTYPES",
    "MANIFEST_NAME",
    "BitmapTensor",
    "Manifest",
    "ModelReader",
    "ModelWriter",
    "ScaledMatrix",
    "TensorRecord",
    "dtype_name",
    "is_model_directory",
    "pack",
    "pack_scaled",
    "validate",
]
