"""A GGUF file as a source: Llama, Qwen2 and Qwen3 families, any quantisation that the gguf package expands."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.checkpoint.digest import hash_descriptor
from gossamer.checkpoint.dtypes import Array
from gossamer.checkpoint.faults import fault
from gossamer.convert.architectures import HEAD, sorted_names
from gossamer.convert.gguf_config import generation_config, model_config
from gossamer.convert.gguf_file import GgufFile, GgufTensor
from gossamer.convert.gguf_tokenizer import tokenizer_files
from gossamer.convert.source import Source, SourceTensor

__all__ = ["GgufSource"]

_GLOBAL = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": HEAD}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"


class GgufSource(Source):
    """One GGUF file. Quantised tensors are stored as f16: their values need up to 16 bits, of which f16 keeps 11 and bf16 only 8."""

    kind = "gguf"

    def __init__(self, path: Path, *, tokenizer: bool = True) -> None:
        self.name = path.name
        self._file = GgufFile(path)
        try:
            factors = self._file.tensors.get(_ROPE_FACTORS)
            self.config = model_config(self._file, self._file.read(factors) if factors else None)
            self._originals = {self._hugging_face_name(t.name): t for t in self._file.tensors.values() if t.name != _ROPE_FACTORS}
            self._tokenizer_files = tokenizer_files(self._file.metadata, self.name) if tokenizer else {}
        except BaseException:
            self._file.file.close()
            raise
        self.tensors = {
            name: SourceTensor(name, self._originals[name].shape, self._originals[name].plain_dtype or "f16")
            for name in sorted_names(self._originals)
        }

    def _hugging_face_name(self, name: str) -> str:
        if name in _GLOBAL:
            return _GLOBAL[name]
        match = re.fullmatch(r"blk\.(0|[1-9]\d{0,4})\.(\w+)\.(weight|bias)", name)
        if match and match[2] in _LAYER:
            return f"model.layers.{match[1]}.{_LAYER[match[2]]}.{match[3]}"
        raise fault("The file holds a tensor that this architecture does not have", file=self.name, tensor=name,
                    fix="Convert the Hugging Face checkpoint instead")  # fmt: skip

    def side_files(self) -> dict[str, bytes]:
        generation = json.dumps(generation_config(self.config), indent=2) + "\n"
        return {"generation_config.json": generation.encode(), **self._tokenizer_files}

    def read(self, name: str) -> Array:
        tensor = self._originals[name]
        values = self._file.read(tensor)
        # llama.cpp rotates neighbouring pairs, so its Llama files interleave the halves of each head's q and k rows.
        if self._file.metadata["general.architecture"] == "llama" and ".self_attn." in name:
            if ".q_proj." in name:
                return self._without_interleaving(values, self.config["num_attention_heads"], tensor)
            if ".k_proj." in name:
                return self._without_interleaving(values, self.config["num_key_value_heads"], tensor)
        return values

    def _without_interleaving(self, values: Array, heads: int, tensor: GgufTensor) -> Array:
        head_dim: int = self.config["head_dim"]
        if not values.ndim or values.shape[0] != heads * head_dim:
            raise fault("The rows are not those of the heads", file=self.name, tensor=tensor.name, field="shape",
                        expected=f"{heads} heads of {head_dim} rows", found=values.shape)  # fmt: skip
        halves = values.reshape(heads, head_dim // 2, 2, *values.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)

    def digest(self, pool: ThreadPoolExecutor) -> str:
        return hash_descriptor(self._file.file.fileno(), pool).sha256

    def has_changed(self) -> str | None:
        return self.name if self._file.file.has_changed() else None

    def close(self) -> None:
        self._file.file.close()

    @property
    def metadata(self) -> dict[str, Any]:
        return self._file.metadata
