"""Keyword arguments of `generate` and its kin: vLLM's spelling or Hugging Face's, never both, never silently ignored."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from gossamer.sampling_params import SamplingParams

__all__ = ["sampling_params_from_keywords"]

_FIELDS = tuple(field.name for field in dataclasses.fields(SamplingParams))

# Hugging Face's name → ours, where the meaning is the same.
_ALIASES = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "num_return_sequences": "n",
    "stop_strings": "stop",
}
_HANDLED = ("do_sample", "eos_token_id")
_UNSUPPORTED = {
    "max_length": "use max_new_tokens, which does not count the prompt",
    "min_length": "use min_new_tokens, which does not count the prompt",
    "num_beams": "beam search is not supported",
    "best_of": "use n and choose among the outputs",
    "pad_token_id": "no padding is used; leave it out",
    "streamer": "use Runtime.stream()",
}


def sampling_params_from_keywords(defaults: SamplingParams, keywords: Mapping[str, Any]) -> SamplingParams:
    """Return `defaults` with the keywords' changes.

    Raises
    ------
    TypeError
        An unknown name (with the nearest known one), or both spellings of one field.
    ValueError
        A value out of its range.
    """
    changes: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for name, value in keywords.items():
        field = _ALIASES.get(name, name)
        if field in spelled:
            raise TypeError(f"{spelled[field]!r} and {name!r} are two spellings of one argument; give one of them")
        spelled[field] = name
        if name in _HANDLED:
            continue
        if field not in _FIELDS:
            raise TypeError(_unknown(name))
        changes[field] = value
    if "do_sample" in keywords:
        _apply_do_sample(changes, keywords["do_sample"], defaults)
    if keywords.get("eos_token_id") is not None:
        _apply_eos(changes, keywords["eos_token_id"])
    return dataclasses.replace(defaults, **changes)


def _apply_do_sample(changes: dict[str, Any], do_sample: Any, defaults: SamplingParams) -> None:
    if not isinstance(do_sample, bool):
        raise TypeError(f"do_sample must be True or False, not {do_sample!r}")
    if not do_sample:
        if changes.get("temperature", 0) != 0:
            raise ValueError("do_sample=False is temperature=0; leave one of them out")
        changes["temperature"] = 0.0
    elif changes.get("temperature") == 0:
        raise ValueError("do_sample=True needs a temperature above 0")
    elif "temperature" not in changes and defaults.temperature == 0:
        changes["temperature"] = 1.0


def _apply_eos(changes: dict[str, Any], eos_token_id: Any) -> None:
    """As in Hugging Face, the given tokens take the place of the model's own end-of-sequence tokens."""
    for name in ("stop_token_ids", "ignore_eos"):
        if name in changes:
            raise TypeError(f"'eos_token_id' and {name!r} contradict each other; give stop_token_ids and ignore_eos, or eos_token_id")
    changes["stop_token_ids"] = [eos_token_id] if isinstance(eos_token_id, int) else eos_token_id
    changes["ignore_eos"] = True


def _unknown(name: str) -> str:
    if name in _UNSUPPORTED:
        return f"unsupported argument {name!r}: {_UNSUPPORTED[name]}"
    known = [*_FIELDS, *_ALIASES, *_HANDLED, "params"]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "see help(gossamer.SamplingParams) for what there is"
    return f"unknown argument {name!r}; {hint}"
