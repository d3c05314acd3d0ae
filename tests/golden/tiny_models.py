"""Tiny random models of every family, as Hugging Face directories, from seeds and NumPy alone.

They are made to be able to fail: large weights, random norms and biases, three layers, grouped heads. `python tiny_models.py NAME DIR`
writes one. The generator is NumPy's frozen `RandomState`, so that the files are the same everywhere and need not be committed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

STD = 0.2
VOCAB = 160
PROMPT_TOKENS = 24
NEW_TOKENS = 64

DTYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

ROTARY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-2,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **ROTARY}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", **ROTARY}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **ROTARY, "use_sliding_window": False}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **ROTARY, "head_dim": 32, "use_sliding_window": False}
OPT = {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "ffn_dim": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "activation_function": "relu",
    "do_layer_norm_before": True,
    "word_embed_proj_dim": 64,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 1,
}

# Both spellings of transformers (rope_theta and rope_scaling; rope_parameters), every dtype on disk, tied and untied heads.
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {**LLAMA, "rope_theta": 500.0, "dtype": "float32"},
    "llama_rope3": {
        **LLAMA,
        "tie_word_embeddings": True,
        "head_dim": 24,
        "rope_theta": 500.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "torch_dtype": "bfloat16",
    },
    "llama_bias_linear": {
        **LLAMA,
        "attention_bias": True,
        "mlp_bias": True,
        "hidden_act": "gelu_pytorch_tanh",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
        "dtype": "float16",
    },
    "llama_yarn": {
        **LLAMA,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 500.0,
            "factor": 8.0,
            "beta_fast": 4.0,
            "original_max_position_embeddings": 64,
        },
        "dtype": "float32",
    },
    "mistral": {**MISTRAL, "rope_theta": 500.0, "sliding_window": 8, "dtype": "float32"},
    "qwen2": {**QWEN2, "tie_word_embeddings": True, "rope_theta": 500.0, "torch_dtype": "bfloat16"},
    "qwen2_window": {
        **QWEN2,
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
        "rope_theta": 500.0,
        "torch_dtype": "float16",
    },
    "qwen3": {
        **QWEN3,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "dtype": "float32",
    },
    "opt": {**OPT, "torch_dtype": "float16"},
    "opt_350m": {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 48, "activation_function": "gelu", "dtype": "float32"},
}

SEEDS = {"opt_350m": 22}  # others 0; chosen so that greedy text does not end in a short loop


def random_values(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Normal values [shape], float32, a function of name and seed."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, np.uint32)).standard_normal(shape).astype(np.float32)


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that `save_pretrained` would write for `config`."""
    return opt_shapes(config) if config["model_type"] == "opt" else rotary_shapes(config)


def rotary_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    family = config["model_type"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        linears = {
            "self_attn.q_proj": (q, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, q),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        for module, shape in linears.items():
            shapes[f"{layer}{module}.weight"] = shape
            attention = module.startswith("self_attn.")
            biased = config.get("attention_bias", False) if attention else config.get("mlp_bias", False)
            if biased or (family == "qwen2" and attention and not module.endswith("o_proj")):
                shapes[f"{layer}{module}.bias"] = shape[:1]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}{norm}.weight"] = (hidden,)
        if family == "qwen3":
            for norm in ("q_norm", "k_norm"):
                shapes[f"{layer}self_attn.{norm}.weight"] = (head_dim,)
    return shapes


def opt_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, narrow = config["hidden_size"], config["ffn_dim"], config["word_embed_proj_dim"]
    decoder = "model.decoder."
    shapes: dict[str, tuple[int, ...]] = {
        f"{decoder}embed_tokens.weight": (config["vocab_size"], narrow),
        f"{decoder}embed_positions.weight": (config["max_position_embeddings"] + 2, hidden),
    }
    if narrow != hidden:
        shapes[f"{decoder}project_in.weight"] = (hidden, narrow)
        shapes[f"{decoder}project_out.weight"] = (narrow, hidden)
    norms = [f"{decoder}final_layer_norm"] if config["do_layer_norm_before"] else []
    for i in range(config["num_hidden_layers"]):
        layer = f"{decoder}layers.{i}."
        linears = {f"self_attn.{part}": (hidden, hidden) for part in ("q_proj", "k_proj", "v_proj", "out_proj")}
        linears |= {"fc1": (inner, hidden), "fc2": (hidden, inner)}
        for module, shape in linears.items():
            shapes[f"{layer}{module}.weight"] = shape
            shapes[f"{layer}{module}.bias"] = shape[:1]
        norms += [f"{layer}self_attn_layer_norm", f"{layer}final_layer_norm"]
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (hidden,)
    return shapes


def tensors(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """The model's tensors in the dtype that the config names. Norm weights lie around 1, all else around 0."""
    dtype = DTYPES[config.get("dtype") or config["torch_dtype"]]
    result = {}
    for name, shape in tensor_shapes(config).items():
        values = STD * random_values(name, shape, seed)
        if name.endswith("norm.weight"):
            values = 1.0 + 2.0 * values
        elif "embed_positions" in name:
            values *= 8.0  # so that positions outweigh the biases
        result[name] = values.astype(dtype)
    return result


def prompt() -> list[int]:
    """Token ids, none of them special."""
    return np.random.RandomState(1000).randint(3, VOCAB, PROMPT_TOKENS).tolist()


def write(name: str, directory: Path, *, edit: Callable[[dict[str, np.ndarray]], None] | None = None, **changes: Any) -> Path:
    """Write variant `name` as a Hugging Face directory.

    `changes` replace fields of its config.json (None removes one) but not the tensors, which `edit` may change in place.
    """
    values = tensors(VARIANTS[name], SEEDS.get(name, 0))
    if edit is not None:
        edit(values)
    config = {key: value for key, value in {**VARIANTS[name], **changes}.items() if value is not None}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(values, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
