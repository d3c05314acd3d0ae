"""Tiny GGUF files for the tests, written with the gguf package; and oracles of its formats, one value at a time."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, FFN, VOCAB, HEADS, KV_HEADS, LAYERS = 256, 256, 300, 4, 2, 2
HEAD_DIM = HIDDEN // HEADS
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level BPE: itself if printable, else the next free one from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


SPACE = byte_letters()[ord(" ")]
MERGES = [
    ("t", "h"),
    ("th", "e"),
    (SPACE, "the"),
    ("1", "2"),
    (SPACE, SPACE),
    ("e", "r"),
    (SPACE, "1"),
    ("l", "l"),
    ("'", "ll"),
    ("12", "3"),
]
SPECIAL = ["<|end|>", "<|user|>"]
TOKENS = [*SPECIAL, *byte_letters(), *(a + b for a, b in MERGES), "<think>"]
TOKENS += [f"<unused{i}>" for i in range(VOCAB - len(TOKENS))]


def hugging_face_weights(*, seed: int = 0, biases: bool = False, qk_norm: bool = False, head: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if head:
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        for name, rows in (("q", HIDDEN), ("k", KV_HEADS * HEAD_DIM), ("v", KV_HEADS * HEAD_DIM)):
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (rows, HIDDEN)
            if biases:
                shapes[f"{layer}self_attn.{name}_proj.bias"] = (rows,)
        shapes |= {f"{layer}self_attn.o_proj.weight": (HIDDEN, HIDDEN), f"{layer}mlp.gate_proj.weight": (FFN, HIDDEN),
                   f"{layer}mlp.up_proj.weight": (FFN, HIDDEN), f"{layer}mlp.down_proj.weight": (HIDDEN, FFN),
                   f"{layer}input_layernorm.weight": (HIDDEN,), f"{layer}post_attention_layernorm.weight": (HIDDEN,)}  # fmt: skip
        if qk_norm:
            shapes |= {f"{layer}self_attn.{x}_norm.weight": (HEAD_DIM,) for x in "qk"}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def gguf_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    stem, suffix = rest.rsplit(".", 1)
    return f"blk.{layer}.{NAMES[stem]}.{suffix}"


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's row order for q and k: the two halves of each head alternate. Row by row."""
    out = np.empty_like(array)
    for head in range(heads):
        for i in range(HEAD_DIM // 2):
            for half in range(2):
                out[head * HEAD_DIM + 2 * i + half] = array[head * HEAD_DIM + half * (HEAD_DIM // 2) + i]
    return out


def write_gguf(
    path: Path,
    weights: dict[str, np.ndarray],
    *,
    architecture: str = "llama",
    kind: str = "F32",
    metadata: dict[str, Any] | None = None,
    blocks: dict[str, np.ndarray] | None = None,
    extra: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write weights with Hugging Face names; matrices as `kind`, or as the raw `blocks` given for them. None in `metadata` is left out."""
    import gguf
    from gguf import quants

    writer = gguf.GGUFWriter(path, architecture)
    values: dict[str, Any] = {
        f"{architecture}.context_length": 128, f"{architecture}.embedding_length": HIDDEN, f"{architecture}.block_count": LAYERS,
        f"{architecture}.feed_forward_length": FFN, f"{architecture}.attention.head_count": HEADS,
        f"{architecture}.attention.head_count_kv": KV_HEADS, f"{architecture}.rope.freq_base": 50000.0,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-6, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS, "tokenizer.ggml.merges": [" ".join(merge) for merge in MERGES],
        "tokenizer.ggml.token_type": [3, 3] + [1] * (len(TOKENS) - 2), "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }  # fmt: skip
    values["tokenizer.ggml.token_type"][TOKENS.index("<think>")] = 4
    for key, value in (values | (metadata or {})).items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
    quantization = gguf.GGMLQuantizationType[kind]
    for name, array in weights.items():
        if architecture == "llama" and ".q_proj." in name:
            array = interleaved(array, HEADS)
        if architecture == "llama" and ".k_proj." in name:
            array = interleaved(array, KV_HEADS)
        if blocks and name in blocks:
            writer.add_tensor(gguf_name(name), blocks[name], raw_dtype=quantization)
        elif array.ndim == 2 and kind != "F32":
            writer.add_tensor(gguf_name(name), quants.quantize(array, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(gguf_name(name), array)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _f16(data: bytes) -> float:
    return float(struct.unpack("<e", data)[0])


def expand_block(kind: str, block: bytes) -> list[float]:
    """The values of one block, by the format's definition."""
    if kind == "Q8_0":  # f16 scale, 32 × i8
        return [_f16(block[:2]) * q for q in struct.unpack("<32b", block[2:])]
    if kind in ("Q4_0", "Q4_1"):  # f16 scale [, f16 minimum], 16 bytes: low nibbles first, then high ones
        packed = block[2 if kind == "Q4_0" else 4 :]
        quants = [b & 15 for b in packed] + [b >> 4 for b in packed]
        return [_f16(block[:2]) * (q - 8) for q in quants] if kind == "Q4_0" else [_f16(block[:2]) * q + _f16(block[2:4]) for q in quants]
    if kind in ("Q5_0", "Q5_1"):  # as Q4, with a fifth bit of each value in a 32-bit word
        start = 2 if kind == "Q5_0" else 4
        (high,) = struct.unpack("<I", block[start : start + 4])
        packed = block[start + 4 :]
        quants = [q | ((high >> i & 1) << 4) for i, q in enumerate([b & 15 for b in packed] + [b >> 4 for b in packed])]
        return [_f16(block[:2]) * (q - 16) for q in quants] if kind == "Q5_0" else [_f16(block[:2]) * q + _f16(block[2:4]) for q in quants]
    assert kind == "Q4_K"  # 256 values: f16 scale and minimum, 8 six-bit pairs of them in 12 bytes, 128 bytes of nibbles
    scale, minimum, packed = _f16(block[:2]), _f16(block[2:4]), block[4:16]
    out: list[float] = []
    for j in range(8):
        if j < 4:
            s, m = packed[j] & 63, packed[j + 4] & 63
        else:
            s = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4
            m = (packed[j + 4] >> 4) | (packed[j] >> 6) << 4
        nibbles = block[16 + 32 * (j // 2) : 48 + 32 * (j // 2)]
        out += [scale * s * (b >> 4 if j % 2 else b & 15) - minimum * m for b in nibbles]
    return out


BLOCK = {"Q8_0": (32, 34), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q4_K": (256, 144)}


def random_blocks(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random blocks with sensible scales, as raw bytes [rows, bytes of a row], and the values they stand for."""
    items, nbytes = BLOCK[kind]
    raw = rng.integers(0, 256, (shape[0], shape[1] // items, nbytes), dtype=np.uint8)
    raw[..., :4].view(np.float16)[...] = rng.uniform(-0.1, 0.1, (*raw[..., :2].shape[:2], 2)).astype(np.float16)
    values = [[value for block in row for value in expand_block(kind, block.tobytes())] for row in raw]
    return raw.reshape(shape[0], -1), np.array(values, np.float64)
