"""Text to token ids and back, by the model directory's tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import tokenizers

from gossamer.errors import CheckpointError

__all__ = ["Detokenizer", "Tokenizer"]

_MAX_BYTES = 256 * 2**20


class Tokenizer:
    """A model's tokenizer. Which special tokens `encode` adds (a BOS, say) is what the tokenizer file itself says.

    Parameters
    ----------
    data : bytes
        The contents of a tokenizer.json.

    Raises
    ------
    CheckpointError
        The file is not a tokenizer of the `tokenizers` library.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) > _MAX_BYTES:
            raise CheckpointError(
                f"tokenizer.json: {len(data)} bytes; a tokenizer has at most {_MAX_BYTES}", file="tokenizer.json", field="bytes"
            )
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # tokenizers raises plain Exception
            raise CheckpointError(
                f"tokenizer.json: not a tokenizer that tokenizers {tokenizers.__version__} can read: {error}",
                file="tokenizer.json",
                fix="convert the model again from a directory that has a tokenizer.json",
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        spellings = [f"<0x{byte:02X}>" for byte in range(256)] if b'"ByteFallback"' in data else []
        self._byte_ids = frozenset(token_id for spelling in spellings if (token_id := self.token_id(spelling)) is not None)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("the prompt holds a lone surrogate, which is not text; decode it from its bytes properly first") from None
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of some token ids; ids without a token give nothing, bytes that are not UTF-8 give U+FFFD."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def token_text(self, token_id: int) -> str:
        """Return the text of one token alone, special tokens included."""
        return self.decode([token_id], skip_special_tokens=False)

    def token_id(self, token: str) -> int | None:
        """Return the id of a token by its spelling in the vocabulary, or None."""
        found = self._tokenizer.token_to_id(token)
        return None if found is None else int(found)

    def detokenizer(self, skip_special_tokens: bool = True) -> Detokenizer:
        """Return a new incremental detokenizer."""
        silent = self._special_ids if skip_special_tokens else frozenset[int]()
        return Detokenizer(partial(self.decode, skip_special_tokens=skip_special_tokens), self._byte_ids | silent)


class Detokenizer:
    """Turns a growing list of tokens into text: the pieces together are the decoding of the whole list.

    A piece never ends inside a character: bytes wait until they are complete, or until `flush`. Where single bytes are tokens of their own
    (byte fallback), a run of them is decoded as a whole and may turn out not to be UTF-8, so it waits until it is over. That is why this
    is not the library's DecodeStream, which gives the run's first bytes out.

    Parameters
    ----------
    decode : callable
        Token ids to text.
    undecided : set of int
        Tokens after which the decoding of those before may still change.
    """

    def __init__(self, decode: Callable[[list[int]], str], undecided: frozenset[int]) -> None:
        self._decode = decode
        self._undecided = undecided
        self._window: list[int] = []  # the last tokens given out, as context, and those after them
        self._context = 0  # how many of the window are given out
        self._context_text = ""

    def push(self, token_id: int) -> str:
        """Take one token; return the text that it completes."""
        self._window.append(token_id)
        if token_id in self._undecided:
            return ""
        text = self._decode(self._window)
        if len(text) <= len(self._context_text) or text.endswith("\ufffd"):
            return ""
        piece = text[len(self._context_text) :]
        self._advance()
        return piece

    def flush(self) -> str:
        """Return what waits, incomplete characters as U+FFFD: no more tokens come."""
        piece = self._decode(self._window)[len(self._context_text) :]
        self._advance()
        return piece

    def _advance(self) -> None:
        del self._window[: self._context]
        self._context = len(self._window)
        self._context_text = self._decode(self._window)
