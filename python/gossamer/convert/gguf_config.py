"""config.json and generation_config.json from a GGUF file's metadata."""

from __future__ import annotations

from typing import Any

import numpy as np

from gossamer.checkpoint.dtypes import Array
from gossamer.checkpoint.faults import fault
from gossamer.convert.gguf_file import GgufFile, pack_f32

__all__ = ["GGUF_ARCHITECTURES", "generation_config", "model_config"]

# general.architecture → the Hugging Face class and model_type.
GGUF_ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
}


class _Metadata:
    """Typed look-ups in the metadata of one architecture; a missing or senseless value is a CheckpointError that names the key."""

    def __init__(self, file: GgufFile) -> None:
        self._raw, self._file = file.metadata, file.file.name
        self.architecture = str(self._raw.get("general.architecture"))

    def wrong(self, what: str, key: str, **where: Any) -> Exception:
        return fault(what, file=self._file, field=key, **where)

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._raw.get(f"{self.architecture}.{key}", default)
        if type(value) is not int or not 0 <= value < 2**31:
            raise self.wrong("A number is missing or senseless", f"{self.architecture}.{key}", found=value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._raw.get(f"{self.architecture}.{key}", default)
        if type(value) not in (int, float) or not 0 < value < 1e12:  # type: ignore[operator]
            raise self.wrong("A number is missing or senseless", f"{self.architecture}.{key}", found=value)
        return pack_f32(value)  # type: ignore[arg-type]

    def text(self, key: str, default: str) -> str:
        return str(self._raw.get(f"{self.architecture}.{key}", default))


def model_config(file: GgufFile, rope_factors: Array | None) -> dict[str, Any]:
    """The configuration; `rope_factors` is the tensor rope_freqs.weight, by which Llama 3 files carry their rope scaling."""
    meta = _Metadata(file)
    if meta.architecture not in GGUF_ARCHITECTURES:
        raise meta.wrong("This architecture is not supported", "general.architecture", expected="one of " + ", ".join(GGUF_ARCHITECTURES),
                         found=meta.architecture, fix="Convert a model of one of these families")  # fmt: skip
    if file.metadata.get("split.count", 1) not in (0, 1):
        raise meta.wrong("The model is split into several files", "split.count", found=file.metadata["split.count"],
                         fix="Join them with llama.cpp's llama-gguf-split --merge")  # fmt: skip
    if meta.integer("expert_count", 0):
        raise meta.wrong(
            "Mixture-of-experts models are not supported", f"{meta.architecture}.expert_count", found=meta.integer("expert_count")
        )
    name, model_type = GGUF_ARCHITECTURES[meta.architecture]
    heads = meta.integer("attention.head_count")
    hidden = meta.integer("embedding_length")
    if not heads or hidden % heads:
        raise meta.wrong(
            "The heads do not divide the hidden size", f"{meta.architecture}.attention.head_count", found=f"{heads} heads for {hidden}"
        )
    head_dim = meta.integer("attention.key_length", hidden // heads)
    for key, value in (("attention.value_length", head_dim), ("rope.dimension_count", head_dim)):
        if meta.integer(key, value) != head_dim:
            raise meta.wrong("Heads with parts of different sizes are not supported", f"{meta.architecture}.{key}",
                             expected=head_dim, found=meta.integer(key))  # fmt: skip
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise fault("The embedding is missing", file=file.file.name, tensor="token_embd.weight")
    biased = "blk.0.attn_output.bias" in file.tensors
    if meta.architecture == "llama" and biased != ("blk.0.attn_q.bias" in file.tensors):
        raise fault("Llama models have either all attention biases or none", file=file.file.name, tensor="blk.0.attn_q.bias")
    config: dict[str, Any] = {
        "architectures": [name],
        "model_type": model_type,
        "vocab_size": embedding.shape[0] if embedding.shape else 0,
        "hidden_size": hidden,
        "intermediate_size": meta.integer("feed_forward_length"),
        "num_hidden_layers": meta.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": meta.integer("context_length"),
        "rms_norm_eps": meta.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": meta.number("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    scaling = _rope_scaling(meta, head_dim, config["rope_theta"], rope_factors)
    if scaling:
        config["rope_scaling"] = scaling
    if meta.architecture == "llama":
        config |= {"attention_bias": biased, "mlp_bias": "blk.0.ffn_up.bias" in file.tensors}
    if meta.integer("attention.sliding_window", 0):
        if meta.architecture != "llama":
            raise meta.wrong("A sliding window is not supported here", f"{meta.architecture}.attention.sliding_window")
        config |= {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "sliding_window": meta.integer("attention.sliding_window"),
        }
    return config | _special_ids(file)


def _special_ids(file: GgufFile) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, key in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        value = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if type(value) is int:
            out[name] = value
    ends = [file.metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
    ids = sorted({value for value in ends if type(value) is int}, key=ends.index)
    if ids:
        out["eos_token_id"] = ids[0] if len(ids) == 1 else ids
    return out


def generation_config(config: dict[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}


def _rope_scaling(meta: _Metadata, head_dim: int, theta: float, factors: Array | None) -> dict[str, Any] | None:
    kind = meta.text("rope.scaling.type", "none")
    if factors is not None:
        return _llama3_scaling(meta, head_dim, theta, np.asarray(factors, np.float64))
    if kind == "none":
        return None
    factor = meta.number("rope.scaling.factor", 1.0)
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = meta.integer("rope.scaling.original_context_length")
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    raise meta.wrong(
        "This rope scaling is not supported", f"{meta.architecture}.rope.scaling.type", expected="none, linear or yarn", found=kind
    )


def _llama3_scaling(meta: _Metadata, head_dim: int, theta: float, factors: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """The scaling whose factors, one per frequency, are these. Llama 3.1 to 3.3 differ in `factor` only."""
    scaling = {
        "rope_type": "llama3",
        "factor": float(np.round(np.max(factors), 6)) if factors.size else 0.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    if factors.shape != (head_dim // 2,) or not np.allclose(llama3_factors(head_dim, theta, scaling), factors, rtol=1e-4):
        raise meta.wrong(
            "The rope factors are not those of Llama 3 rope scaling", "rope_freqs.weight", fix="Convert the Hugging Face checkpoint instead"
        )
    return scaling


def llama3_factors(head_dim: int, theta: float, scaling: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """By how much Llama 3 slows each frequency: not at all the fast ones, by `factor` the slow ones, smoothly in between."""
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    turns = scaling["original_max_position_embeddings"] / wavelength
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth))
