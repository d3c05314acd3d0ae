"""Texts as fixed-length sequences of tokens, for calibration and perplexity."""

from __future__ import annotations

import json
from pathlib import Path

from gossamer.chat_template import ChatTemplate
from gossamer.tokenizer import Tokenizer

__all__ = ["read_text", "special_prefix", "windows"]


def special_prefix(tokenizer: Tokenizer) -> list[int]:
    """The tokens that the tokenizer itself puts before a text: a BOS, or nothing."""
    whole, bare = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=False)
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start]
    return []


def windows(tokenizer: Tokenizer, text: str, length: int) -> list[list[int]]:
    """Cut a text into sequences of exactly `length` tokens, one after the other; what remains at the end is left out.

    Each begins with what the tokenizer puts before a text, so that every window looks like the start of a document to the model.
    """
    prefix = special_prefix(tokenizer)
    step = length - len(prefix)
    if step < 1:
        raise ValueError(f"window length must be greater than {len(prefix)}, the special tokens before a text, not {length}")
    tokens = tokenizer.encode(text, add_special_tokens=False)
    return [prefix + tokens[i : i + step] for i in range(0, len(tokens) - step + 1, step)]


def read_text(path: Path, template: ChatTemplate | None = None) -> str:
    """Read a UTF-8 text file; of a .jsonl file, the conversations (`{"messages": […]}` per line) rendered with the chat template.

    A model without a template gets the contents of the messages, a line each.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}; convert the file to UTF-8") from None
    if path.suffix != ".jsonl":
        return text
    conversations = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            messages = json.loads(line)["messages"]
            contents = [message["content"] for message in messages]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f'{path}: line {number} is not {{"messages": [{{"role": …, "content": …}}, …]}}') from None
        conversations.append(template.render(messages, add_generation_prompt=False) if template else "\n".join(contents) + "\n\n")
    return "".join(conversations)
