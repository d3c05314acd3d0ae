"""A deterministic tiny Llama with a byte-level BPE tokenizer: small enough for every test, large enough to say different things.

Weights are drawn at a scale at which every part of the model matters, and half of each projection's weights are zero.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from gossamer.checkpoint import ModelWriter

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 48, 80, 3, 4, 2, 12, 256
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END = 2  # <|im_end|>: ends a sequence
TEXT = (
    "The quick brown fox jumps over the lazy dog while the small grey cat sleeps under the old wooden table. "
    "Über den Fluss führt eine schmale Brücke; ça va? 漢字とかな、日本語の文。 Привет мир! 1, 2, 3 and so on: user assistant system."
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'forbidden' %}{{ raise_exception('no such role') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@functools.cache
def tokenizer_json() -> bytes:
    """Every byte is a token, so any sequence of ids decodes to some bytes, often not UTF-8."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=384, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    return str(tokenizer.to_str()).encode()


def vocab_size() -> int:
    return int(tokenizers.Tokenizer.from_buffer(tokenizer_json()).get_vocab_size())


def config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size(),
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": END,
        "torch_dtype": "float32",
    }


def side_files(**changes: Any) -> dict[str, bytes]:
    tokenizer_config = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "chat_template": CHAT_TEMPLATE}
    generation = {"bos_token_id": 1, "eos_token_id": [END]}
    files = {
        "config.json": json.dumps(config() | changes).encode(),
        "generation_config.json": json.dumps(generation).encode(),
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": json.dumps(tokenizer_config).encode(),
    }
    return files


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Projections are half zeros."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, cols: int) -> np.ndarray:
        return (random.standard_normal((rows, cols)) * 0.2).astype(np.float32)

    def sparse(rows: int, cols: int) -> np.ndarray:
        return matrix(rows, cols) * (random.random((rows, cols)) < 0.5)

    def norm() -> np.ndarray:
        return (1 + 0.2 * random.standard_normal(HIDDEN)).astype(np.float32)

    tensors = {"model.embed_tokens.weight": matrix(vocab_size(), HIDDEN) * 5}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        tensors[layer + "input_layernorm.weight"] = norm()
        tensors[layer + "self_attn.q_proj.weight"] = sparse(HEADS * HEAD_DIM, HIDDEN)
        tensors[layer + "self_attn.k_proj.weight"] = sparse(KV_HEADS * HEAD_DIM, HIDDEN)
        tensors[layer + "self_attn.v_proj.weight"] = sparse(KV_HEADS * HEAD_DIM, HIDDEN)
        tensors[layer + "self_attn.o_proj.weight"] = sparse(HIDDEN, HEADS * HEAD_DIM)
        tensors[layer + "post_attention_layernorm.weight"] = norm()
        tensors[layer + "mlp.gate_proj.weight"] = sparse(INNER, HIDDEN)
        tensors[layer + "mlp.up_proj.weight"] = sparse(INNER, HIDDEN)
        tensors[layer + "mlp.down_proj.weight"] = sparse(HIDDEN, INNER)
    tensors["model.norm.weight"] = norm()
    tensors["lm_head.weight"] = matrix(vocab_size(), HIDDEN)
    return tensors


def write_model(directory: Path, files: dict[str, bytes] | None = None, tensors: dict[str, np.ndarray] | None = None) -> Path:
    """Write it as a model directory, projections sparse."""
    source = {"kind": "huggingface", "name": "tiny", "sha256": "0" * 64}
    with ModelWriter(directory, side_files=files or side_files(), source=source, producer="test") as writer:
        for name, tensor in (tensors or weights()).items():
            if "_proj" in name:
                writer.add_bitmap(name, tensor)
            else:
                writer.add_dense(name, tensor)
        writer.finish()
    return directory


def write_huggingface(directory: Path) -> Path:
    """Write it as a plain Hugging Face directory."""
    from safetensors.numpy import save_file

    directory.mkdir()
    for name, contents in side_files().items():
        (directory / name).write_bytes(contents)
    save_file(weights(), directory / "model.safetensors", metadata={"format": "pt"})
    return directory
