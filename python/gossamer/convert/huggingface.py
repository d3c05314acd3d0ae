"""A Hugging Face directory as a source: safetensors in one file or many, dense or in a sparse layout of compressed-tensors."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.checkpoint.digest import hash_descriptor, model_id
from gossamer.checkpoint.dtypes import DTYPES, SAFETENSORS_NAMES, Array
from gossamer.checkpoint.faults import fault
from gossamer.checkpoint.safe_files import SafeFile, open_in
from gossamer.checkpoint.shard import Part, header_length, parse_header
from gossamer.checkpoint.strict_json import parse_object
from gossamer.convert.architectures import normal_name, require_supported, sorted_names
from gossamer.convert.compressed import expand, group, logical_shape, without_compression
from gossamer.convert.source import Source, SourceTensor

__all__ = ["HuggingFaceSource"]

_SIDE_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
_FLOATS = {SAFETENSORS_NAMES[name]: dtype for name, dtype in DTYPES.items()}
_ALL_DTYPES: dict[str, np.dtype[Any]] = {**_FLOATS, "I64": np.dtype("<i8"), "U8": np.dtype("u1")}
_INDEX = "model.safetensors.index.json"


class HuggingFaceSource(Source):
    """A directory as `save_pretrained` writes it. Links to regular files are followed, as Hugging Face's cache consists of them."""

    kind = "huggingface"
    PICKLE_ADVICE = (
        "With torch and transformers, load model and tokenizer and write both with save_pretrained(directory), "
        "which makes safetensors and a tokenizer.json; then convert that"
    )

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.resolve().name
        self._stack = ExitStack()
        self._files: dict[str, SafeFile] = {}
        self._parts: dict[str, tuple[str, Part]] = {}  # physical name → file, place in it
        self._index: dict[str, str] | None = None  # physical name → file, if there is an index
        try:
            self._read_config()
            for shard in self._shards():
                self._read_shard(shard)
            self._originals, self.tensors = self._logical_tensors()
        except BaseException:
            self._stack.close()
            raise

    def _open(self, name: str) -> SafeFile:
        if name not in self._files:
            self._files[name] = self._stack.enter_context(open_in(self._path, name, allow_symlinks=True))
        return self._files[name]

    def _has(self, name: str) -> bool:
        return os.path.lexists(self._path / name)

    def _read_config(self) -> None:
        if not self._has("config.json"):
            raise fault("The directory holds no config.json, so it is not a Hugging Face model", file=self.name,
                        fix="Give the directory that holds config.json and the safetensors")  # fmt: skip
        raw = parse_object(self._open("config.json").read_all(), "config.json")
        names = raw.get("architectures")
        architecture = require_supported(names[0] if isinstance(names, list) and len(names) == 1 else names)
        self.config = {**without_compression(raw), "architectures": [architecture]}

    def _shards(self) -> list[str]:
        if self._has("model.safetensors"):
            return ["model.safetensors"]
        if self._has(_INDEX):
            weight_map = parse_object(self._open(_INDEX).read_all(), _INDEX).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
                raise fault("The index must map tensor names to file names", file=_INDEX, field="weight_map")
            self._index = weight_map
            return sorted(set(weight_map.values()))
        found = sorted(entry for entry in os.listdir(self._path) if entry.endswith(".safetensors"))
        if len(found) == 1:
            return found
        if found:
            raise fault(
                f"There are {len(found)} safetensors files but no index", file=_INDEX, fix="Download the model again, with all of its files"
            )
        if any(entry.endswith((".bin", ".pt", ".pth")) for entry in os.listdir(self._path)):
            raise fault(
                "The weights are PyTorch pickles, which can run code when opened, so they are not read",
                file=self.name,
                fix=self.PICKLE_ADVICE,
            )
        raise fault("The directory holds no safetensors", file=self.name, fix="Download the model with its weights")

    def _read_shard(self, shard: str) -> None:
        file = self._open(shard)
        length = header_length(bytes(file.read(0, min(8, file.size))), file.size, shard)
        parts = parse_header(bytes(file.read(8, length)), file.size, shard, any_order=True)
        if self._index is not None:
            listed = {name for name, where in self._index.items() if where == shard}
            for name in sorted(listed ^ parts.keys()):
                raise fault("The index and the file disagree on what the file holds", file=shard, tensor=name,
                            expected="in both", found="in the index only" if name in listed else "in the file only",
                            fix="The files are of different downloads: download the model again")  # fmt: skip
        for name, part in parts.items():
            self._parts[name] = (shard, part)

    def _logical_tensors(self) -> tuple[dict[str, dict[str, str]], dict[str, SourceTensor]]:
        originals: dict[str, dict[str, str]] = {}
        spelt: dict[str, str] = {}
        for original, parts in group(self._parts).items():
            name = normal_name(original, self.architecture)
            if name is None:
                continue
            if name in originals:
                raise fault(
                    "A tensor is stored twice, in two spellings", file=self.name, tensor=name, found=f"{spelt[name]} and {original}"
                )
            originals[name], spelt[name] = parts, original
        return originals, {name: self._describe(name, originals[name]) for name in sorted_names(originals)}

    def _describe(self, name: str, parts: dict[str, str]) -> SourceTensor:
        file, values = self._parts[parts.get("") or parts.get("compressed") or parts["bitmask"]]
        if values.dtype not in _FLOATS:
            raise fault("Weights of this dtype are not supported", file=file, tensor=name, field="dtype",
                        expected=", ".join(_FLOATS), found=values.dtype,
                        fix="Convert a checkpoint in float16, bfloat16 or float32")  # fmt: skip
        shape = values.shape
        if "" not in parts:
            if "shape" not in parts:
                raise fault("A part of a sparse tensor is missing", file=file, tensor=name, field="shape")
            shape = logical_shape(name, file, self._read_part(parts["shape"]))
        dtype = next(short for short, spelling in SAFETENSORS_NAMES.items() if spelling == values.dtype)
        return SourceTensor(name, shape, dtype)

    def _read_part(self, physical: str) -> Array:
        file, part = self._parts[physical]
        if part.dtype not in _ALL_DTYPES:
            raise fault("A part of a sparse tensor has the wrong dtype", file=file, tensor=physical, field="dtype", found=part.dtype)
        return np.frombuffer(self._open(file).read(part.offset, part.nbytes), _ALL_DTYPES[part.dtype]).reshape(part.shape)

    def read(self, name: str) -> Array:
        parts = self._originals[name]
        if "" in parts:
            return self._read_part(parts[""])
        return expand(name, self._parts[parts["bitmask"]][0], parts, self._read_part)

    def side_files(self) -> dict[str, bytes]:
        return {name: self._open(name).read_all() for name in _SIDE_FILES if self._has(name)}

    def digest(self, pool: ThreadPoolExecutor) -> str:
        return model_id({name: hash_descriptor(file.fileno(), pool) for name, file in self._files.items()})

    def has_changed(self) -> str | None:
        return next((name for name, file in self._files.items() if file.has_changed()), None)

    def close(self) -> None:
        self._stack.close()
