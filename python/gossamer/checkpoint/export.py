"""Writes a model directory as plain dense Hugging Face safetensors: the way back to other tools."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from gossamer import __version__
from gossamer.checkpoint.digest import hash_threads
from gossamer.checkpoint.dtypes import DTYPES, SAFETENSORS_NAMES
from gossamer.checkpoint.file_io import FileIO
from gossamer.checkpoint.manifest import Manifest, TensorRecord
from gossamer.checkpoint.reader import ModelReader
from gossamer.checkpoint.shard_writer import MAX_SHARD_BYTES, PhysicalTensor, ShardWriter, shard_name
from gossamer.checkpoint.staging import StagedDirectory

__all__ = ["export_model"]

_INDEX = "model.safetensors.index.json"
_LONG_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def export_model(
    model: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    resume: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    io: FileIO | None = None,
) -> list[Path]:
    """Expand every tensor to dense, in the dtype it is stored in; returns the paths of the files written.

    Values with scales are multiplied out, in the dtype of the model's other tensors.

    The directory loads with `AutoModelForCausalLM.from_pretrained` and appears when it is complete.

    Raises
    ------
    CheckpointError : the model is malformed.
    OSError : the destination is taken, or cannot hold the model.
    """
    io = io or FileIO()
    report = progress or (lambda done, total, what: None)
    with ExitStack() as stack:
        reader = stack.enter_context(ModelReader(model))
        manifest = reader.manifest
        pool = stack.enter_context(hash_threads())
        staged = StagedDirectory(Path(destination), overwrite=overwrite, foreign_files=_foreign_files, io=io)
        stack.callback(staged.close)
        key = f"export {manifest.digest} {max_shard_bytes} {__version__}" if resume else None
        shards = ShardWriter(staged.path, resume_key=key, io=io, pool=pool, max_bytes=max_shard_bytes, aligned=True)
        try:
            if not shards.resume():
                staged.clear()
            dtypes = {name: _exported_dtype(record, manifest) for name, record in manifest.tensors.items()}
            sizes = [record.size * DTYPES[dtypes[name]].itemsize + 1024 for name, record in manifest.tensors.items()]
            shards.require_space(sum(sizes), staged.destination)
            done, total = 0, sum(record.size for record in manifest.tensors.values())
            for name, record in manifest.tensors.items():
                if not shards.is_finished(name):
                    values = reader.dense(name).astype(DTYPES[dtypes[name]], copy=False)
                    part = PhysicalTensor(name, SAFETENSORS_NAMES[dtypes[name]], values)
                    shards.add(name, TensorRecord("dense", dtypes[name], record.shape, ""), [part])
                done += record.size
                report(done, total, name)
            shards.flush()
            names = _finish(staged.path, shards, reader, io)
            staged.publish()
        except BaseException:
            if key is None or not shards.finished:
                staged.discard()
            raise
    return [staged.destination / name for name in names]


def _finish(directory: Path, shards: ShardWriter, reader: ModelReader, io: FileIO) -> list[str]:
    """Side files, then the shards' names and their index."""
    side_files = {**reader.side_files(), "config.json": _config(reader)}
    for name, data in side_files.items():
        io.write_file(directory / name, data)
    count = len(shards.finished)
    tensors, files = shards.finish(["model.safetensors"] if count == 1 else [shard_name(i, count) for i in range(count)])
    if count > 1:
        size = sum(record.size * DTYPES[record.dtype].itemsize for record in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": {name: record.shard for name, record in sorted(tensors.items())}}
        io.write_file(directory / _INDEX, (json.dumps(index, indent=2) + "\n").encode())
    return [*side_files, *files, *([_INDEX] if count > 1 else [])]


def _config(reader: ModelReader) -> bytes:
    """config.json, with a dtype: without one, transformers would load everything as float32."""
    config = reader.config
    if not config.get("dtype") and not config.get("torch_dtype"):
        config["torch_dtype"] = _LONG_NAMES[most_common_dtype(reader.manifest)]
    return (json.dumps(config, ensure_ascii=False, indent=2) + "\n").encode()


def most_common_dtype(manifest: Manifest) -> str:
    """The dtype of most of the weights that have no scales."""
    sizes = dict.fromkeys(DTYPES, 0)
    for record in manifest.tensors.values():
        if not record.is_scaled:
            sizes[record.dtype] += record.size
    return max(sizes, key=lambda name: sizes[name])


def _exported_dtype(record: TensorRecord, manifest: Manifest) -> str:
    return most_common_dtype(manifest) if record.is_scaled else record.dtype


def _foreign_files(directory: Path) -> list[str]:
    """Files that an export does not write; only a directory without any is replaced."""
    ours = {
        "config.json",
        "generation_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
    }

    def is_ours(path: Path) -> bool:
        weights = path.name.startswith("model") and path.name.endswith((".safetensors", _INDEX))
        return path.is_file() and (weights or path.name in ours or path.name.startswith("tokenizer"))

    return sorted(path.name for path in directory.iterdir() if not is_ours(path))
