"""Tiny source checkpoints for the tests of convert, export and inspect; no torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

Arrays = dict[str, np.ndarray]

LLAMA_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True, "torch_dtype": "float32",
}  # fmt: skip
OPT_CONFIG: dict[str, Any] = {
    "architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": 40, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 1,
    "num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": True,
}  # fmt: skip
LAYER = "model.layers.0."
Q, UP = LAYER + "self_attn.q_proj.weight", LAYER + "mlp.up_proj.weight"


def llama_tensors(dtype: Any = np.float32, *, seed: int = 1, layers: int = 2, zeros: float = 0.0) -> Arrays:
    """Random weights of a Llama of LLAMA_CONFIG's sizes; `zeros` is the share of zeros in the linears."""
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    out = {"model.embed_tokens.weight": weights(40, 16), "model.norm.weight": weights(16)}
    shapes = {
        "self_attn.q_proj": (16, 16), "self_attn.k_proj": (8, 16), "self_attn.v_proj": (8, 16), "self_attn.o_proj": (16, 16),
        "mlp.gate_proj": (24, 16), "mlp.up_proj": (24, 16), "mlp.down_proj": (16, 24),
    }  # fmt: skip
    for layer in range(layers):
        for name, shape in shapes.items():
            matrix = weights(*shape)
            matrix[rng.random(shape) < zeros] = 0
            out[f"model.layers.{layer}.{name}.weight"] = matrix
        for name in ("input_layernorm", "post_attention_layernorm"):
            out[f"model.layers.{layer}.{name}.weight"] = weights(16)
    return out


def opt_tensors() -> Arrays:
    rng = np.random.default_rng(5)
    shapes = {
        "embed_tokens.weight": (40, 16),
        "embed_positions.weight": (66, 16),
        "final_layer_norm.weight": (16,),
        "final_layer_norm.bias": (16,),
    }
    linears = {"self_attn.q_proj": (16, 16), "self_attn.k_proj": (16, 16), "self_attn.v_proj": (16, 16), "self_attn.out_proj": (16, 16),
               "fc1": (24, 16), "fc2": (16, 24), "self_attn_layer_norm": (16,), "final_layer_norm": (16,)}  # fmt: skip
    for name, shape in linears.items():
        shapes |= {f"layers.0.{name}.weight": shape, f"layers.0.{name}.bias": shape[:1]}
    return {f"model.decoder.{name}": rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}


def write_hugging_face(path: Path, tensors: Arrays, config: dict[str, Any] = LLAMA_CONFIG, *, shards: int = 1) -> Path:
    """Write a directory as save_pretrained does, with the safetensors library."""
    from safetensors.numpy import save_file

    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "generation_config.json").write_text('{"eos_token_id": 2}')
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    if shards == 1:
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
        return path
    weight_map = {name: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(tensors)}
    for shard in set(weight_map.values()):
        save_file({n: tensors[n] for n, s in weight_map.items() if s == shard}, path / shard, {"format": "pt"})
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def sparse_bitmask(name: str, array: np.ndarray, *, old_spelling: bool) -> Arrays:
    """A tensor of any rank as compressed-tensors wrote it; independent of our packing (bit by bit)."""
    base = name if old_spelling else name.removesuffix(".weight")
    rows = array.reshape(-1, array.shape[-1])
    mask = np.zeros((rows.shape[0], (rows.shape[1] + 7) // 8), np.uint8)
    values, counts = [], []
    for r, row in enumerate(rows):
        before = len(values)
        for c, value in enumerate(row):
            if value != 0:
                mask[r, c // 8] |= 1 << (c % 8)
                values.append(value)
        counts.append(len(values) - before)
    offsets = np.cumsum(counts) - counts
    return {
        f"{base}.shape": np.array(array.shape, np.int64),
        f"{base}.compressed": np.array(values, array.dtype),
        f"{base}.bitmask": mask.reshape(*array.shape[:-1], -1),
        f"{base}.row_offsets": offsets.astype(np.int64).reshape(array.shape[:-1]),
    }


def sparse_24(name: str, array: np.ndarray) -> Arrays:
    """sparse-24-bitmask: the two greatest of every four by magnitude, zeros among them where fewer are left."""
    base = name.removesuffix(".weight")
    rows, cols = array.shape
    mask, values = np.zeros((rows, (cols + 7) // 8), np.uint8), np.zeros((rows, cols // 2), array.dtype)
    for r in range(rows):
        kept = [c for q in range(0, cols, 4) for c in sorted(sorted(range(q, q + 4), key=lambda c: -abs(float(array[r, c])))[:2])]
        for i, c in enumerate(kept):
            mask[r, c // 8] |= 1 << (c % 8)
            values[r, i] = array[r, c]
    return {f"{base}.shape": np.array([[rows], [cols]], np.int64), f"{base}.compressed": values, f"{base}.bitmask": mask}


def bf16(array: np.ndarray) -> np.ndarray:
    return array.astype(ml_dtypes.bfloat16)


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
