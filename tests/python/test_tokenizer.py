"""Text to tokens and back, whole and in pieces."""

from __future__ import annotations

import pytest
import tiny_model as tiny
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, processors

from gossamer import CheckpointError
from gossamer.tokenizer import Tokenizer

BYTE_LEVEL = Tokenizer(tiny.tokenizer_json())


def sentencepiece_like() -> Tokenizer:
    """A Llama 2 style tokenizer: ▁ for spaces, bytes as <0xNN> tokens, one space stripped in front, a BOS added."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{b:02X}>": 3 + b for b in range(256)}
    for piece in ("▁", "▁the", "▁cat", "s", "a", "é", "漢", "the", ",", "▁▁"):
        vocabulary[piece] = len(vocabulary)
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return Tokenizer(tokenizer.to_str().encode())


SENTENCEPIECE = sentencepiece_like()


def check_pieces(tokenizer: Tokenizer, ids: list[int], skip_special_tokens: bool) -> None:
    whole = tokenizer.decode(ids, skip_special_tokens)
    detokenizer = tokenizer.detokenizer(skip_special_tokens)
    shown = ""
    for token in ids:
        piece = detokenizer.push(token)
        assert not piece.endswith("�"), "part of a character was given out"
        shown += piece
        assert whole.startswith(shown)
    assert shown + detokenizer.flush() == whole
    assert detokenizer.flush() == ""


@given(st.lists(st.integers(0, BYTE_LEVEL.vocab_size - 1), max_size=40), st.booleans())
def test_byte_level_pieces_are_the_whole(ids, skip):
    check_pieces(BYTE_LEVEL, ids, skip)


@given(st.lists(st.integers(0, SENTENCEPIECE.vocab_size - 1), max_size=40), st.booleans())
def test_sentencepiece_pieces_are_the_whole(ids, skip):
    check_pieces(SENTENCEPIECE, ids, skip)


@given(st.text(max_size=60))
def test_text_comes_back(text):
    ids = BYTE_LEVEL.encode(text)
    assert BYTE_LEVEL.decode(ids, skip_special_tokens=False) == text
    check_pieces(BYTE_LEVEL, ids, False)


def test_a_character_waits_until_it_is_complete():
    ids = BYTE_LEVEL.encode("漢")
    detokenizer = BYTE_LEVEL.detokenizer()
    assert len(ids) > 1
    assert [detokenizer.push(token) for token in ids] == [""] * (len(ids) - 1) + ["漢"]


def test_a_cut_character_is_flushed():
    detokenizer = BYTE_LEVEL.detokenizer()
    ids = BYTE_LEVEL.encode("漢")[:-1]
    assert "".join(detokenizer.push(token) for token in ids) == ""
    assert set(detokenizer.flush()) == {"�"}


def test_special_tokens():
    ids = [1, *BYTE_LEVEL.encode("cat"), 2]
    assert BYTE_LEVEL.decode(ids) == "cat"
    assert BYTE_LEVEL.decode(ids, skip_special_tokens=False) == "<|im_start|>cat<|im_end|>"
    assert BYTE_LEVEL.token_text(2) == "<|im_end|>"
    assert BYTE_LEVEL.token_id("<|im_end|>") == 2
    assert BYTE_LEVEL.token_id("absent") is None


def test_a_bos_is_added_only_where_the_tokenizer_says_so():
    assert BYTE_LEVEL.encode("cat")[0] != 1
    assert SENTENCEPIECE.encode("cat")[0] == 1
    assert SENTENCEPIECE.encode("cat", add_special_tokens=False)[0] != 1


def test_truncation_and_padding_of_the_file_are_off():
    other = tokenizers.Tokenizer.from_buffer(tiny.tokenizer_json())
    other.enable_truncation(3)
    other.enable_padding(length=9)
    assert Tokenizer(other.to_str().encode()).encode("the quick brown fox jumps") == BYTE_LEVEL.encode("the quick brown fox jumps")


def test_a_lone_surrogate_is_a_value_error():
    with pytest.raises(ValueError, match="surrogate"):
        BYTE_LEVEL.encode("a\ud800b")


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"not json", b"\xff\xfe", b'{"model": {"type": "Nonsense"}}'])
def test_not_a_tokenizer(data):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json") as caught:
        Tokenizer(data)
    assert caught.value.file == "tokenizer.json"
