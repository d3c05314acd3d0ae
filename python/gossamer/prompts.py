"""What callers may pass as prompts: texts and lists of token ids."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.checks import shown

if TYPE_CHECKING:
    from gossamer.tokenizer import Tokenizer

__all__ = ["Prompt", "Prompts", "encode_prompts", "split_prompts"]

Prompt = str | Sequence[int]
Prompts = Prompt | Sequence[Prompt]


def split_prompts(prompts: Any, name: str = "prompts") -> list[Any]:
    """Return a list of single prompts: one text, one list of token ids, or a list of these.

    Raises
    ------
    TypeError
        Neither of them.
    ValueError
        There is none.
    """
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, np.ndarray):
        return [prompts] if prompts.ndim == 1 else list(prompts) if prompts.ndim == 2 else _refuse(prompts, name)
    if isinstance(prompts, (bytes, bytearray, memoryview)) or not isinstance(prompts, Sequence):
        return _refuse(prompts, name)
    if not prompts:
        raise ValueError(f"{name} is empty; give at least one prompt")
    if not isinstance(prompts[0], (str, Sequence, np.ndarray)):
        return [prompts]
    return list(prompts)


def encode_prompts(prompts: Any, tokenizer: Tokenizer | None, vocab_size: int, name: str = "prompts") -> list[tuple[str | None, list[int]]]:
    """Return (text or None, token ids) per prompt; the token ids are not empty and lie in [0, vocab_size)."""
    single = split_prompts(prompts, name)
    encoded: list[tuple[str | None, list[int]]] = []
    for i, prompt in enumerate(single):
        place = name if len(single) == 1 else f"{name}[{i}]"
        if isinstance(prompt, str):
            encoded.append((prompt, _encode_text(prompt, tokenizer, place)))
        else:
            encoded.append((None, _check_token_ids(prompt, vocab_size, place)))
    return encoded


def _encode_text(text: str, tokenizer: Tokenizer | None, place: str) -> list[int]:
    if not text:
        raise ValueError(f"{place} is an empty text; there is nothing to continue")
    if tokenizer is None:
        raise ValueError(
            f"{place} is text, but the model directory has no tokenizer.json; give token ids, or convert again with a tokenizer"
        )
    token_ids = tokenizer.encode(text)
    if not token_ids:
        raise ValueError(f"{place} has no tokens in this model's vocabulary: {shown(text)}")
    return token_ids


def _check_token_ids(token_ids: Any, vocab_size: int, place: str) -> list[int]:
    if isinstance(token_ids, np.ndarray):
        if token_ids.ndim != 1 or token_ids.dtype.kind not in "iu":
            raise TypeError(f"{place} must be a one-dimensional array of integers, not {token_ids.dtype} {list(token_ids.shape)}")
        token_ids = token_ids.tolist()
    if isinstance(token_ids, (bytes, bytearray, memoryview)) or not isinstance(token_ids, Sequence):
        _refuse(token_ids, place)
    if not token_ids:
        raise ValueError(f"{place} is empty; there is nothing to continue")
    checked = []
    for i, token in enumerate(token_ids):
        try:
            if isinstance(token, bool):
                raise TypeError
            number = operator.index(token)
        except TypeError:
            raise TypeError(f"{place}[{i}] must be a token id, not {shown(token)}") from None
        if not 0 <= number < vocab_size:
            raise ValueError(f"{place}[{i}] must be a token id from 0 to {vocab_size - 1}, not {shown(number)}")
        checked.append(number)
    return checked


def _refuse(prompts: Any, name: str) -> Any:
    raise TypeError(f"{name} must be a text, a list of token ids, or a list of these, not {shown(prompts)}")
