"""The conversion itself: a source in, a model directory out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gossamer import __version__
from gossamer.checkpoint.bitmap import pack
from gossamer.checkpoint.digest import hash_threads
from gossamer.checkpoint.dtypes import DTYPES, Array, dtype_name, first_nonfinite, is_nonzero
from gossamer.checkpoint.faults import fault
from gossamer.checkpoint.file_io import FileIO
from gossamer.checkpoint.manifest import MANIFEST_NAME, Manifest
from gossamer.checkpoint.scaled import SCALE_GROUP_UNIT
from gossamer.checkpoint.shard_writer import MAX_SHARD_BYTES
from gossamer.checkpoint.writer import ModelWriter
from gossamer.convert.architectures import HEAD, check_names, embedding_name, is_linear, tied_by_default
from gossamer.convert.gguf_source import GgufSource
from gossamer.convert.huggingface import HuggingFaceSource
from gossamer.convert.source import Source, SourceTensor
from gossamer.convert.values import role_of
from gossamer.quantize import Quantizer

__all__ = ["ConvertOptions", "Progress", "convert", "open_source"]

Progress = Callable[[int, int, str], None]  # elements done, elements in all, what is being done

_LONG_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert.

    Attributes
    ----------
    dtype : "f32", "f16", "bf16", or "auto": as the source has it; f16 for quantised GGUF (f32 for a tensor that f16 cannot hold).
    bitmap_threshold : linears with at least this share of zeros are stored as bitmaps. Above 1: none.
    bitmap_head : treat the head as a linear (embedding and norms are always dense).
    allow_nonfinite : keep NaN and infinities.
    tokenizer : build the tokenizer's files (GGUF only).
    values : "int8", "int4" or "fp8": round the weights; None: keep them as they are.
    scale_group : columns that share a scale in int4.
    """

    dtype: str = "auto"
    bitmap_threshold: float = 0.25
    bitmap_head: bool = False
    allow_nonfinite: bool = False
    tokenizer: bool = True
    values: str | None = None
    scale_group: int = SCALE_GROUP_UNIT

    @property
    def quantizer(self) -> Quantizer:
        return Quantizer(self.values, self.scale_group)

    def __post_init__(self) -> None:
        if self.dtype != "auto" and self.dtype not in DTYPES:
            raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, not {self.dtype!r}")
        _ = self.quantizer  # refuses what it does not know
        if not self.bitmap_threshold >= 0:
            raise ValueError(f"bitmap_threshold is a share of zeros, 0 or more, not {self.bitmap_threshold}")


def open_source(path: str | os.PathLike[str], options: ConvertOptions) -> Source:
    """Recognise what `path` is and open it; CheckpointError with advice for what cannot be converted."""
    path = Path(path)
    if path.is_dir():
        if (path / MANIFEST_NAME).exists():
            raise fault("This is a Gossamer model already", file=path.name, fix="Use it as it is; to prune it, run: gossamer prune")
        return HuggingFaceSource(path)
    if not path.exists():
        raise fault("There is no such file or directory", file=path.name, fix="Check the path; models are not downloaded")
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        raise fault("PyTorch pickles can run code when opened, so they are not read", file=path.name, fix=HuggingFaceSource.PICKLE_ADVICE)
    if path.suffix == ".safetensors":
        raise fault(
            "One safetensors file is not a model: its config.json is needed too", file=path.name, fix="Give the directory that holds both"
        )
    return GgufSource(path, tokenizer=options.tokenizer)


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    options: ConvertOptions | None = None,
    *,
    overwrite: bool = False,
    resume: bool = True,
    progress: Progress | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    io: FileIO | None = None,
) -> Manifest:
    """Convert a Hugging Face directory or a GGUF file into a model directory; returns its manifest.

    The directory appears when it is complete. An interrupted conversion goes on where it stopped when it is run again (`resume`).

    Raises
    ------
    CheckpointError : the source is malformed or not supported.
    OSError : the destination is taken, being written by another process, or cannot hold the model.
    """
    options = options or ConvertOptions()
    report = progress or (lambda done, total, what: None)
    with open_source(source, options) as opened:
        _drop_tied_head(opened)
        _check(opened)
        total = sum(tensor.size for tensor in opened.tensors.values())
        report(0, total, "reading the source's digest")
        with hash_threads() as pool:
            digest = opened.digest(pool)
        key = json.dumps([digest, asdict(options), max_shard_bytes, __version__])
        with ModelWriter(
            destination,
            side_files={**opened.side_files(), "config.json": _config(opened, options)},
            source={"kind": opened.kind, "name": opened.name, "sha256": digest},
            producer=f"gossamer {__version__}",
            overwrite=overwrite,
            resume_key=hashlib.sha256(key.encode()).hexdigest() if resume else None,
            expected_bytes=_expected_bytes(opened, options),
            allow_nonfinite=options.allow_nonfinite,
            max_shard_bytes=max_shard_bytes,
            io=io,
        ) as writer:
            done = 0
            for name, tensor in opened.tensors.items():
                if not writer.has(name):
                    _add(writer, opened, tensor, options)
                done += tensor.size
                report(done, total, name)
            changed = opened.has_changed()
            if changed:
                raise fault("The source was changed while it was converted", file=changed, fix="Run the command again when it is complete")
            return writer.finish()


def _add(writer: ModelWriter, source: Source, tensor: SourceTensor, options: ConvertOptions) -> None:
    values = _cast(source.read(tensor.name), tensor, options)
    role = role_of(tensor.name, source.architecture, tied=HEAD not in source.tensors)
    if role is not None and options.values is not None and (bad := first_nonfinite(values)) is not None:
        raise fault(f"The weight at index {list(bad)} is NaN or infinite", tensor=tensor.name, field=f"index {list(bad)}",
                    expected="finite weights to round", fix="Convert it without --values")  # fmt: skip
    wanted = is_linear(tensor.name, source.architecture) or (options.bitmap_head and tensor.name == HEAD)
    if wanted and values.ndim == 2 and values.size:
        kept = is_nonzero(values)
        if 1 - np.count_nonzero(kept) / values.size >= options.bitmap_threshold:
            writer.add(tensor.name, options.quantizer(pack(values, kept), role))
            return
    writer.add(tensor.name, options.quantizer(values, role))


def _cast(values: Array, tensor: SourceTensor, options: ConvertOptions) -> Array:
    target = tensor.dtype if options.dtype == "auto" else options.dtype
    if dtype_name(values) == target:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(DTYPES[target])
        if options.dtype == "auto" and first_nonfinite(cast) is not None and first_nonfinite(values) is None:
            return values.astype(np.float32)  # out of f16's range
    return cast


def _drop_tied_head(source: Source) -> None:
    """Remove a stored copy of the embedding where the head is tied to it."""
    tied = source.config.get("tie_word_embeddings", tied_by_default(source.architecture))
    embedding = embedding_name(source.architecture)
    if not tied or HEAD not in source.tensors or embedding not in source.tensors:
        return
    head, table = source.read(HEAD), source.read(embedding)
    if head.dtype != table.dtype or head.shape != table.shape or head.tobytes() != table.tobytes():
        raise fault(
            "config.json says that the head is tied to the embedding, but the checkpoint stores a different head",
            file="config.json",
            tensor=HEAD,
            field="tie_word_embeddings",
            fix='Set "tie_word_embeddings": false in config.json if the stored head is meant, or remove it',
        )
    del source.tensors[HEAD]


def _check(source: Source) -> None:
    layers = source.config.get("num_hidden_layers")
    if type(layers) is not int or not 0 < layers <= 1000:
        raise fault("The number of layers is missing or senseless", file="config.json", field="num_hidden_layers", found=layers)
    tied = bool(source.config.get("tie_word_embeddings", tied_by_default(source.architecture)))
    check_names(source.tensors, source.architecture, layers, tied=tied, file=source.name)


def _config(source: Source, options: ConvertOptions) -> bytes:
    config = dict(source.config)
    if options.dtype != "auto" or source.kind == "gguf":
        sizes: dict[str, int] = {}
        for tensor in source.tensors.values():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
        stored = options.dtype if options.dtype != "auto" else max(sizes, key=lambda name: sizes[name])
        for key in [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]:
            config[key] = _LONG_NAMES[stored]
    return (json.dumps(config, ensure_ascii=False, indent=2) + "\n").encode()


def _expected_bytes(source: Source, options: ConvertOptions) -> int:
    """An upper bound, but for tensors that `auto` must store as f32."""
    total = 0
    for tensor in source.tensors.values():
        itemsize = DTYPES[tensor.dtype if options.dtype == "auto" else options.dtype].itemsize
        dense = tensor.size * itemsize
        bitmap = dense * max(0.0, 1 - options.bitmap_threshold) + tensor.size / 8 + 8 * tensor.shape[0] if len(tensor.shape) == 2 else 0
        total += max(dense, int(bitmap)) + 1024  # 1024: the header's entries
    return total
