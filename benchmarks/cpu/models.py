"""Makes the models of the end-to-end benchmark once: Gossamer's directories, and GGUF files of the same weights for llama.cpp.

The GGUF files have no vocabulary, and q and k rows are not permuted for interleaved rope: they serve to measure speed only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from gossamer.checkpoint import ModelReader, ModelWriter, is_model_directory
from gossamer.convert import ConvertOptions, convert, quantize_model
from gossamer.demo.download import fetch_gguf
from gossamer.prune import prune
from gossamer.quantize import Quantizer

if TYPE_CHECKING:
    from engines import Kind

__all__ = ["MODELS", "path_of", "prepare"]

MODELS = ("smollm2-135m", "llama-1.1b")

_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632,
    "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
_GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def path_of(model: str, kind: Kind, directory: Path) -> Path:
    """Where a kind's model lies."""
    if kind.engine != "gossamer":
        return directory / f"{model}-{kind.values}.gguf"
    return directory / f"{model}-{kind.values}-{round(100 * kind.sparsity)}"


def prepare(model: str, kind: Kind, directory: Path) -> None:
    """Make a kind's model unless it is there."""
    path = path_of(model, kind, directory)
    if path.is_file() or is_model_directory(path):
        return
    directory.mkdir(parents=True, exist_ok=True)
    dense = directory / f"{model}-bf16-0"
    if not is_model_directory(dense):
        _smollm2(dense) if model.startswith("smollm2") else _random_llama(dense)
    if kind.engine != "gossamer":
        _write_gguf(dense, path, kind.values)
        return
    floating = directory / f"{model}-bf16-{round(100 * kind.sparsity)}"
    if not is_model_directory(floating):
        prune(dense, {kind.sparsity: floating}, method="magnitude")
    if kind.values != "bf16" and not is_model_directory(path):
        quantize_model(floating, path, Quantizer(kind.values))


def _smollm2(path: Path) -> None:
    convert(fetch_gguf(path.parent), path, ConvertOptions(dtype="bf16"))


def _random_llama(path: Path) -> None:
    """All layers have the same weights: a speed does not see that, and making them takes seconds."""
    rng = np.random.default_rng(7)

    def matrix(rows: int, cols: int) -> np.ndarray:
        return (0.02 * rng.standard_normal((rows, cols), np.float32)).astype(ml_dtypes.bfloat16)

    h, i, kv = _LLAMA["hidden_size"], _LLAMA["intermediate_size"], _LLAMA["num_key_value_heads"] * _LLAMA["head_dim"]
    shapes = {
        "self_attn.q_proj": (h, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h), "self_attn.o_proj": (h, h),
        "mlp.gate_proj": (i, h), "mlp.up_proj": (i, h), "mlp.down_proj": (h, i),
    }  # fmt: skip
    layer = {name: matrix(*shape) for name, shape in shapes.items()}
    ones = np.ones(h, ml_dtypes.bfloat16)
    source = {"kind": "gossamer", "name": "random", "sha256": "0" * 64}
    side_files = {"config.json": json.dumps(_LLAMA).encode()}
    with ModelWriter(path, side_files=side_files, source=source, producer="gossamer benchmark") as writer:
        writer.add_dense("model.embed_tokens.weight", matrix(_LLAMA["vocab_size"], h))
        for number in range(_LLAMA["num_hidden_layers"]):
            for name, weight in layer.items():
                writer.add_dense(f"model.layers.{number}.{name}.weight", weight)
            for norm in ("input_layernorm", "post_attention_layernorm"):
                writer.add_dense(f"model.layers.{number}.{norm}.weight", ones)
        writer.add_dense("model.norm.weight", ones)
        writer.add_dense("lm_head.weight", matrix(_LLAMA["vocab_size"], h))
        writer.finish()


def _write_gguf(dense: Path, path: Path, kind: str) -> None:
    """The dense model's weights as BF16, F16, Q8_0 or Q4_0; of Q4_0 embedding and head as Q8_0, as llama.cpp's tool does."""
    import gguf

    with ModelReader(dense) as reader:
        config = reader.config
        partial = path.with_suffix(".partial")
        writer = gguf.GGUFWriter(partial, "llama")
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
        writer.add_vocab_size(config["vocab_size"])
        writer.add_tokenizer_model("no_vocab")
        for name in reader.names():
            values = reader.dense(name).astype(np.float32)
            stored = "F32" if values.ndim == 1 else "Q8_0" if kind == "Q4_0" and "layers." not in name else kind
            quantised = gguf.GGMLQuantizationType[stored]
            writer.add_tensor(_gguf_name(name), gguf.quants.quantize(values, quantised), raw_dtype=quantised)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    partial.rename(path)


def _gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    plain = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    if stem in plain:
        return f"{plain[stem]}.weight"
    _, _, number, part = stem.split(".", 3)
    return f"blk.{number}.{_GGUF_NAMES[part]}.weight"
