"""Text to token ids and back, by the model directory's tokenizer.json."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers
from tokenizers.decoders import DecodeStream

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

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text."""
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        except UnicodeEncodeError:
            raise ValueError("prompt holds a lone surrogate, which is not text; encode it as UTF-8 first") from None

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
        return Detokenizer(self._tokenizer, skip_special_tokens)


class Detokenizer:
    """Turns a growing list of tokens into text: the pieces together are the decoding of the whole list.

    A piece never ends inside a character: bytes wait until they are complete, or until `flush`.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._token_ids: list[int] = []
        self._given = 0  # characters

    def push(self, token_id: int) -> str:
        """Take one token; return the text that it completes."""
        self._token_ids.append(token_id)
        text = self._stream.step(self._tokenizer, token_id) or ""
        self._given += len(text)
        return text

    def flush(self) -> str:
        """Return what waits, incomplete characters as U+FFFD: no more tokens come."""
        whole = self._tokenizer.decode(self._token_ids, skip_special_tokens=self._skip_special_tokens)
        rest: str = whole[self._given :]
        self._given += len(rest)
        return rest
