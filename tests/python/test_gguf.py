"""gossamer convert from GGUF files: every quantisation, the families, the tokenizer, malformed files."""

from __future__ import annotations

import itertools
import json
import re
import struct
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gguf_files import (
    BLOCK,
    HEADS,
    KV_HEADS,
    MERGES,
    SPACE,
    TOKENS,
    byte_letters,
    hugging_face_weights,
    interleaved,
    random_blocks,
    write_gguf,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from gossamer.checkpoint import ModelReader
from gossamer.convert import ConvertOptions, convert
from gossamer.convert.gguf_config import llama3_factors
from gossamer.errors import CheckpointError

gguf = pytest.importorskip("gguf", reason="the extra [gguf] is not installed")
Q = "model.layers.1.self_attn.q_proj.weight"


def load(path: Path, destination: Path, **options: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    convert(path, destination, ConvertOptions(**options))
    with ModelReader(destination) as reader:
        return {name: reader.dense(name) for name in reader.names()}, reader.config


@pytest.mark.parametrize(("kind", "dtype"), [("F32", np.float32), ("F16", np.float16), ("BF16", ml_dtypes.bfloat16)])
def test_plain_tensors_keep_their_bits(tmp_path: Path, kind: str, dtype: Any) -> None:
    weights = hugging_face_weights()
    loaded, config = load(write_gguf(tmp_path / "m.gguf", weights, kind=kind), tmp_path / "model")
    assert loaded.keys() == weights.keys()
    for name, array in weights.items():
        expected = array.astype(dtype) if array.ndim == 2 else array
        assert loaded[name].dtype == expected.dtype
        assert loaded[name].tobytes() == expected.tobytes(), name
    assert config["torch_dtype"] == np.dtype(dtype).name
    assert config["tie_word_embeddings"] is True


@pytest.mark.parametrize("kind", BLOCK)
def test_quantised_blocks_expand_by_their_definition(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(7)
    weights, blocks, expected = hugging_face_weights(), {}, {}
    for name, array in weights.items():
        if array.ndim == 2:
            blocks[name], expected[name] = random_blocks(kind, array.shape, rng)
    path = write_gguf(tmp_path / "m.gguf", weights, kind=kind, blocks=blocks)
    loaded, config = load(path, tmp_path / "f32", dtype="f32")
    rounded, _ = load(path, tmp_path / "auto")
    for name, values in expected.items():
        heads = HEADS if ".q_proj." in name else KV_HEADS if ".k_proj." in name else 0
        got = interleaved(loaded[name], heads) if heads else loaded[name]
        np.testing.assert_allclose(got, values, rtol=2e-7, atol=1e-7)
        assert rounded[name].dtype == np.float16
        assert (rounded[name] == loaded[name].astype(np.float16)).all()
    assert rounded["model.norm.weight"].dtype == np.float32
    assert config["torch_dtype"] == "float32"


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_quantised_weights_are_near_the_original(tmp_path: Path, kind: str) -> None:
    weights = hugging_face_weights()
    loaded, _ = load(write_gguf(tmp_path / "m.gguf", weights, kind=kind), tmp_path / "model")
    step = 1 / 127 if kind == "Q8_0" else 1 / 7
    for name, array in weights.items():
        worst = np.abs(loaded[name].astype(np.float64) - array).max()
        assert worst <= step * np.abs(array).max(), name  # a wrong row order would be far off


def test_a_tensor_beyond_f16_is_stored_as_f32(tmp_path: Path) -> None:
    weights = hugging_face_weights()
    weights[Q] *= 1e6
    loaded, config = load(write_gguf(tmp_path / "m.gguf", weights, kind="Q8_0"), tmp_path / "model")
    assert loaded[Q].dtype == np.float32
    assert np.abs(loaded[Q] - weights[Q]).max() <= np.abs(weights[Q]).max() / 127
    assert loaded["model.embed_tokens.weight"].dtype == np.float16
    assert config["torch_dtype"] == "float16"


def test_configuration_comes_from_the_metadata(tmp_path: Path) -> None:
    _, config = load(write_gguf(tmp_path / "m.gguf", hugging_face_weights(head=True)), tmp_path / "model")
    assert config == {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300, "hidden_size": 256, "intermediate_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "hidden_act": "silu",
        "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 50000.0, "tie_word_embeddings": False, "attention_bias": False,
        "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 0, "torch_dtype": "float32",
    }  # fmt: skip
    generation = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": 0}
    assert json.loads((tmp_path / "model" / "gossamer.json").read_text())["source"]["kind"] == "gguf"


@pytest.mark.parametrize(("architecture", "name"), [("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")])
def test_qwen_rows_are_not_interleaved(tmp_path: Path, architecture: str, name: str) -> None:
    weights = hugging_face_weights(biases=architecture == "qwen2", qk_norm=architecture == "qwen3")
    path = write_gguf(tmp_path / "m.gguf", weights, architecture=architecture, metadata={"tokenizer.ggml.pre": "qwen2"})
    loaded, config = load(path, tmp_path / "model")
    assert config["architectures"] == [name]
    assert loaded.keys() == weights.keys()
    assert all((loaded[n] == weights[n]).all() for n in weights)


def test_llama_biases_are_reordered_with_their_rows(tmp_path: Path) -> None:
    weights = hugging_face_weights(biases=True)
    weights |= {f"model.layers.{i}.self_attn.o_proj.bias": np.ones(256, np.float32) for i in range(2)}
    loaded, config = load(write_gguf(tmp_path / "m.gguf", weights), tmp_path / "model")
    assert config["attention_bias"] is True
    assert all((loaded[n] == weights[n]).all() for n in weights)


def test_rope_scaling(tmp_path: Path) -> None:
    weights = hugging_face_weights()
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    factors = llama3_factors(64, 50000.0, scaling).astype(np.float32)
    assert factors[0] == 1
    assert factors[-1] == 32
    assert ((factors > 1.01) & (factors < 31.9)).any()
    path = write_gguf(tmp_path / "a.gguf", weights, extra={"rope_freqs.weight": factors})
    assert load(path, tmp_path / "a")[1]["rope_scaling"] == scaling
    path = write_gguf(tmp_path / "b.gguf", weights, extra={"rope_freqs.weight": factors * np.linspace(1, 1.1, 32, dtype=np.float32)})
    with pytest.raises(CheckpointError, match="not those of Llama 3"):
        convert(path, tmp_path / "b")
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    path = write_gguf(tmp_path / "c.gguf", weights, metadata=linear)
    assert load(path, tmp_path / "c")[1]["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    path = write_gguf(tmp_path / "d.gguf", weights, metadata={**linear, "llama.rope.scaling.type": "longrope"})
    with pytest.raises(CheckpointError, match=r"rope\.scaling\.type.*found longrope"):
        convert(path, tmp_path / "d")


# --- tokenizer -------------------------------------------------------------------------------------------------------------------


def tokenizer_of(path: Path, **metadata: Any) -> Tokenizer:
    write_gguf(path / "m.gguf", hugging_face_weights(), metadata={f"tokenizer.ggml.{key}": value for key, value in metadata.items()})
    convert(path / "m.gguf", path / "model", overwrite=True)
    return Tokenizer.from_file(str(path / "model" / "tokenizer.json"))


def encode_slowly(text: str) -> list[int]:
    """SmolLM's tokenizer by its definition: digits alone, GPT-2's words, bytes as letters, merges in order of rank."""
    letters, ids = byte_letters(), []
    for piece in re.findall(r"<\|end\|>|<\|user\|>|<think>|(?:(?!<\|end\|>|<\|user\|>|<think>).)+", text, re.S):
        if piece in ("<|end|>", "<|user|>", "<think>"):
            ids.append(TOKENS.index(piece))
            continue
        runs = re.findall(r"\d|\D+", "".join("0" if c.isnumeric() else "x" for c in piece))
        position = 0
        for run in runs:
            part = piece[position : position + len(run)]
            position += len(run)
            for word in (
                re.findall(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+", part) if run[0] == "x" else [part]
            ):
                symbols = [letters[b] for b in word.encode()]
                while pairs := [(MERGES.index(p), i) for i, p in enumerate(itertools.pairwise(symbols)) if p in MERGES]:
                    _, i = min(pairs)
                    symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
                ids += [TOKENS.index(symbol) for symbol in symbols]
    return ids


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_of(tmp_path_factory.mktemp("smollm"))


STRINGS = [
    "", " ", "the  there 123 1 12", "I'll they'll 'LL", "naïve “quotes” … ½ ٣ Ⅷ 一二", "🙂 👩\u200d👩\u200d👧 🇫🇷",
    "  \n\n\t the\r\n", "\u00a0\u2003the", "<|user|>the 12<|end|>", "<think>the</think>", "x<|en", "a_b __ -- ++",
]  # fmt: skip


@pytest.mark.parametrize("text", STRINGS)
def test_tokenizer_on_chosen_strings(smollm: Tokenizer, text: str) -> None:
    ids = smollm.encode(text).ids
    assert ids == encode_slowly(text)
    assert smollm.decode(ids, skip_special_tokens=False) == text


def is_plain(c: str) -> bool:
    # Where Python's regular expressions and the tokenizer's differ on what a letter or a space is, this oracle cannot judge.
    category = unicodedata.category(c)
    return category[0] not in "CMN" or c.isdigit() or c in "\n\t\r"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.characters().filter(is_plain), st.sampled_from(["the", " ", "12", "'ll", "er", "<|end|>", "\n"])), max_size=40)
)
def test_tokenizer_on_any_text(smollm: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    assert smollm.encode(text).ids == encode_slowly(text)


def words(tokenizer: Tokenizer, text: str) -> list[str]:
    if tokenizer.normalizer:
        text = tokenizer.normalizer.normalize_str(text)
    return [text[a:b] for _, (a, b) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("smollm", ["I", "'ll", " say", " ", "1", "2", "3", "4", " ", " é", "!!", "\n", "\n", "X", "'", "LL"]),
        ("gpt-2", ["I", "'ll", " say", " 1234", " ", " é", "!!", "\n", "\n", "X", "'", "LL"]),
        ("llama-bpe", ["I", "'ll", " say", " ", "123", "4", " ", " é", "!!\n\n", "X", "'LL"]),
        ("qwen2", ["I", "'ll", " say", " ", "1", "2", "3", "4", " ", " é", "!!\n\n", "X", "'LL"]),
    ],
)
def test_words_of_each_known_pre_tokenizer(tmp_path: Path, pre: str, expected: list[str]) -> None:
    assert words(tokenizer_of(tmp_path, pre=pre), "I'll say 1234  é!!\n\nX'LL") == expected


def test_qwen_normalises_and_llama_adds_its_first_token(tmp_path: Path) -> None:
    decomposed = "e\u0301"
    (tmp_path / "a").mkdir()
    qwen = tokenizer_of(tmp_path / "a", pre="qwen2")
    assert qwen.encode(decomposed).ids == qwen.encode("\u00e9").ids
    (tmp_path / "b").mkdir()
    llama = tokenizer_of(tmp_path / "b", pre="llama-bpe", add_bos_token=True)
    assert llama.encode("the").ids == [1, TOKENS.index("the")]
    assert llama.encode("the", add_special_tokens=False).ids == [TOKENS.index("the")]
    assert llama.encode(decomposed).ids != llama.encode("\u00e9").ids


def test_control_tokens_are_special_and_user_tokens_are_not(smollm: Tokenizer) -> None:
    ids = smollm.encode("<|user|>the<think>").ids
    assert ids == [1, TOKENS.index("the"), TOKENS.index("<think>")]
    assert smollm.decode(ids) == "the<think>"
    assert smollm.get_vocab_size() == len(TOKENS)
    assert smollm.token_to_id(SPACE + "the") == TOKENS.index(SPACE + "the")


def test_side_files_name_the_special_tokens_and_hold_the_chat_template(tmp_path: Path) -> None:
    tokenizer_of(tmp_path)
    config = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert config["bos_token"] == "<|user|>"
    assert config["eos_token"] == "<|end|>"
    assert (tmp_path / "model" / "chat_template.jinja").read_text() == "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"pre": "default"}, r"cuts text.*gpt-2, llama-bpe, qwen2, smollm, found default.*--no-tokenizer"),
        ({"pre": None}, "found None"),
        ({"model": "llama"}, r"kind of tokenizer.*found llama"),
        ({"tokens": TOKENS[:-1] + TOKENS[:1]}, "occurs twice"),
        ({"token_type": [1]}, "one type per token"),
        ({"merges": ["a b c"]}, "merge is not of two"),
        ({"merges": ["the q"]}, "merge is not of two"),
        ({"bos_token_id": 10**6}, "Not a token's id"),
        ({"tokens": None}, "list of strings is missing"),
    ],
)
def test_tokenizers_that_cannot_be_rebuilt_are_refused(tmp_path: Path, metadata: dict[str, Any], text: str) -> None:
    path = write_gguf(
        tmp_path / "m.gguf", hugging_face_weights(), metadata={f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    )
    with pytest.raises(CheckpointError, match=text):
        convert(path, tmp_path / "model")
    convert(path, tmp_path / "model", ConvertOptions(tokenizer=False))
    assert not (tmp_path / "model" / "tokenizer.json").exists()


# --- malformed files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"llama.expert_count": 8}, "Mixture-of-experts"),
        ({"split.count": 3}, r"several files.*found 3"),
        ({"llama.attention.head_count": 3}, "heads do not divide"),
        ({"llama.attention.head_count": None}, r"llama\.attention\.head_count"),
        ({"llama.block_count": 3}, r"lacks tensors.*layers\.2"),
        ({"llama.block_count": "many"}, r"llama\.block_count"),
        ({"llama.rope.dimension_count": 32}, "different sizes"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "rms_epsilon"),
        ({"general.alignment": 33}, "power of two"),
    ],
)
def test_senseless_metadata(tmp_path: Path, metadata: dict[str, Any], text: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", hugging_face_weights(), metadata=metadata)
    with pytest.raises(CheckpointError, match=text):
        convert(path, tmp_path / "model")


def test_unknown_architectures_and_tensors_are_refused_by_name(tmp_path: Path) -> None:
    weights = hugging_face_weights()
    with pytest.raises(CheckpointError, match=r"one of llama, qwen2, qwen3, found gemma3"):
        convert(write_gguf(tmp_path / "a.gguf", weights, architecture="gemma3"), tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"does not have.*blk\.0\.ffn_gate_exps\.weight"):
        convert(write_gguf(tmp_path / "b.gguf", weights, extra={"blk.0.ffn_gate_exps.weight": np.ones(3, np.float32)}), tmp_path / "model")
    del weights["model.embed_tokens.weight"]
    with pytest.raises(CheckpointError, match=r"embedding is missing"):
        convert(write_gguf(tmp_path / "c.gguf", weights), tmp_path / "model")


def test_quantised_file_without_the_package_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = write_gguf(tmp_path / "a.gguf", hugging_face_weights())
    quantised = write_gguf(tmp_path / "b.gguf", hugging_face_weights(), kind="Q8_0")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ImportError, match=r"pip install 'gossamer\[gguf\]'"):
        convert(quantised, tmp_path / "b")
    convert(plain, tmp_path / "a")  # needs no package


def tiny_gguf(
    *, version: int = 3, tensors: int = 1, keys: int = 1, key: bytes = b"k", kind: int = 4, value: bytes = b"\1\0\0\0",
    dims: tuple[int, ...] = (4,), tensor_type: int = 0, offset: int = 0, data: bytes = bytes(16),
) -> bytes:  # fmt: skip
    """A GGUF file with one metadata entry and one tensor, each field open to be wrong."""
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value
    head += struct.pack("<Q", 1) + b"t" + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, tensor_type, offset)
    return head + bytes(-len(head) % 32) + data


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends inside its first 4 bytes"),
    "other magic": (b"GGML" + tiny_gguf()[4:], "begin with GGUF"),
    "version 1": (tiny_gguf(version=1), "expected 2 or 3, found 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "Big-endian"),
    "10^12 tensors": (tiny_gguf(tensors=10**12), "Too many"),
    "10^18 keys": (tiny_gguf(keys=10**18), "Too many"),
    "key beyond the end": (tiny_gguf()[:24] + b"\xff" * 8 + tiny_gguf()[32:], "ends inside a metadata key"),
    "key not UTF-8": (tiny_gguf(key=b"\xff"), "not UTF-8"),
    "type unknown": (tiny_gguf(kind=99), "Unknown metadata type"),
    "array of 2^60": (tiny_gguf(kind=9, value=struct.pack("<IQ", 4, 2**60)), "ends inside the metadata k"),
    "strings 2^60": (tiny_gguf(kind=9, value=struct.pack("<IQ", 8, 2**60)), "ends inside the metadata k"),
    "nested arrays": (tiny_gguf(kind=9, value=struct.pack("<IQ", 9, 1) * 100), "Unknown metadata type"),
    "rank 5": (tiny_gguf(dims=(1,) * 5), "too many dimensions"),
    "tensor beyond": (tiny_gguf(dims=(5,)), "outside of the file"),
    "tensor of 2^63": (tiny_gguf(dims=(2**63, 2**63)), "outside of the file"),
    "offset unaligned": (tiny_gguf(offset=1), "outside of the file"),
    "offset 2^64-1": (tiny_gguf(offset=2**64 - 32), "outside of the file"),
    "tensor type unknown": (tiny_gguf(tensor_type=77), "Unknown tensor type"),
    "half a block": (tiny_gguf(tensor_type=8), "whole number of blocks"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(tmp_path: Path, case: str) -> None:
    data, text = BROKEN[case]
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(CheckpointError, match=text):
        convert(tmp_path / "m.gguf", tmp_path / "model")


def test_two_tensors_may_not_overlap_or_share_a_name(tmp_path: Path) -> None:
    good = tiny_gguf(data=bytes(64))
    entry = struct.pack("<Q", 1) + b"%c" + struct.pack("<IQIQ", 1, 4, 0, 0)
    at = good.index(struct.pack("<Q", 1) + b"t")
    for name, text in ((b"t", "occurs twice"), (b"u", "overlap")):
        head = good[:8] + struct.pack("<Q", 2) + good[16:at] + good[at : at + len(entry) - 1] + entry.replace(b"%c", name)
        (tmp_path / "m.gguf").write_bytes(head + bytes(-len(head) % 32) + bytes(64))
        with pytest.raises(CheckpointError, match=text):
            convert(tmp_path / "m.gguf", tmp_path / "model")


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", hugging_face_weights())
    data = path.read_bytes()
    start = data.index(b"blk.1.ffn_down.weight") + 200  # beyond that: data
    cut: list[Callable[[int], int]] = [lambda i: i * start // 150, lambda i: start + i * (len(data) - start) // 50]
    for end in [cut[0](i) for i in range(150)] + [cut[1](i) for i in range(50)] + [len(data) - 1]:
        path.write_bytes(data[:end])
        with pytest.raises(CheckpointError):
            convert(path, tmp_path / "model")
