"""tokenizer.json, tokenizer_config.json and the chat template from a GGUF file's metadata."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from gossamer.checkpoint.faults import fault

__all__ = ["KNOWN_PRETOKENIZERS", "tokenizer_files"]

_CONTROL, _USER_DEFINED = 3, 4
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# tokenizer.ggml.pre names how text is cut before merging; a wrong guess gives plausible but wrong ids, so others are refused.
KNOWN_PRETOKENIZERS = ("gpt-2", "llama-bpe", "qwen2", "smollm")
_ALIASES = {"gpt2": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe"}


def _split(digits: str) -> Any:
    words = pre_tokenizers.Split(Regex(_WORDS.replace("DIGITS", digits)), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _pre_tokenizer(kind: str) -> Any:
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if kind == "gpt-2":
        return words
    if kind == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    return _split(r"\p{N}{1,3}" if kind == "llama-bpe" else r"\p{N}")


class _Vocabulary:
    """The tokenizer's part of the metadata, checked."""

    def __init__(self, metadata: dict[str, Any], file: str) -> None:
        self._metadata, self._file = metadata, file
        if self.get("model") != "gpt2":
            raise self.wrong("This kind of tokenizer is not supported", "model", expected="gpt2 (byte-level BPE)", found=self.get("model"))
        self.kind = _ALIASES.get(str(self.get("pre")), str(self.get("pre")))
        if self.kind not in KNOWN_PRETOKENIZERS:
            raise self.wrong("How this tokenizer cuts text into words is not known", "pre",
                             expected="one of " + ", ".join(KNOWN_PRETOKENIZERS), found=self.get("pre"))  # fmt: skip
        self.tokens: list[str] = self._strings("tokens")
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            raise self.wrong("A token occurs twice", "tokens")
        merges = [tuple(merge.split(" ")) for merge in self._strings("merges")]
        for merge in merges:
            if len(merge) != 2 or merge[0] not in self.ids or merge[1] not in self.ids or merge[0] + merge[1] not in self.ids:
                raise self.wrong("A merge is not of two tokens into a third", "merges", found=" ".join(merge))
        self.merges: list[tuple[str, str]] = [(merge[0], merge[1]) for merge in merges]
        types = self.get("token_type")
        self.types: list[int] = types if isinstance(types, list) else [1] * len(self.tokens)
        if len(self.types) != len(self.tokens):
            raise self.wrong("There must be one type per token", "token_type", expected=len(self.tokens), found=len(self.types))

    def get(self, key: str) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{key}")

    def wrong(self, what: str, key: str, **where: Any) -> Exception:
        fix = "Convert the Hugging Face checkpoint instead, or pass --no-tokenizer and work with token ids"
        return fault(what, file=self._file, field=f"tokenizer.ggml.{key}", fix=fix, **where)

    def _strings(self, key: str) -> list[str]:
        value = self.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong("A list of strings is missing", key)
        return value

    def token(self, role: str) -> str | None:
        """The text of a special token ("bos", "eos", …), or None."""
        index = self.get(f"{role}_token_id")
        if index is None:
            return None
        if type(index) is not int or not 0 <= index < len(self.tokens):
            raise self.wrong("Not a token's id", f"{role}_token_id", expected=f"0 to {len(self.tokens) - 1}", found=index)
        return self.tokens[index]


def _build(vocabulary: _Vocabulary) -> Tokenizer:
    bpe = models.BPE(vocab=vocabulary.ids, merges=vocabulary.merges, ignore_merges=vocabulary.kind == "llama-bpe", fuse_unk=False)
    tokenizer = Tokenizer(bpe)
    if vocabulary.kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(vocabulary.kind)
    tokenizer.decoder = decoders.ByteLevel()
    added = {_CONTROL: True, _USER_DEFINED: False}
    tokenizer.add_tokens(
        [
            AddedToken(token, special=added[kind], normalized=False)
            for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
            if kind in added
        ]
    )
    first = vocabulary.token("bos") if vocabulary.get("add_bos_token") else None
    last = vocabulary.token("eos") if vocabulary.get("add_eos_token") else None
    around = [token for token in (first, "$A", last) if token is not None]
    if len(around) > 1:
        special = [(token, vocabulary.ids[token]) for token in around if token != "$A"]
        tokenizer.post_processor = processors.TemplateProcessing(single=" ".join(around), special_tokens=special)
    return tokenizer


def tokenizer_files(metadata: dict[str, Any], file: str) -> dict[str, bytes]:
    """The tokenizer's side files by name; CheckpointError for a tokenizer that we cannot rebuild exactly."""
    vocabulary = _Vocabulary(metadata, file)
    roles = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    names = {key: token for role, key in roles.items() if (token := vocabulary.token(role)) is not None}
    config = {
        **names,
        "add_bos_token": bool(vocabulary.get("add_bos_token")),
        "add_eos_token": bool(vocabulary.get("add_eos_token")),
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    out = {
        "tokenizer.json": (_build(vocabulary).to_str(pretty=False) + "\n").encode(),
        "tokenizer_config.json": (json.dumps(config, ensure_ascii=False, indent=2) + "\n").encode(),
    }
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        out["chat_template.jinja"] = template.encode()
    return out
