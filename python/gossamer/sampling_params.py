"""How a request is sampled: vLLM's names and meanings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gossamer.checks import INT32_MAX, INT64_MAX, integer, real, shown

__all__ = ["SamplingParams"]

_MAX_STOP_STRINGS = 1024
_MAX_STOP_CHARACTERS = 65536  # of all stop strings together


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the tokens of a request are drawn and when it ends.

    Parameters
    ----------
    n : int
        Samples per prompt.
    temperature : float
        Divides the logits; 0 is greedy.
    top_k : int
        Draw from the k most likely tokens; 0 or -1 = all.
    top_p : float
        Draw from the fewest tokens whose probabilities sum to top_p, in (0, 1].
    min_p : float
        Drop tokens less likely than min_p times the most likely one, in [0, 1].
    repetition_penalty : float
        Above 1 discourages the tokens of the prompt and of the output so far.
    presence_penalty, frequency_penalty : float
        Subtracted from the logits of tokens in the output so far, once or per occurrence, in [-2, 2].
    seed : int or None
        Makes the request reproducible by itself. None: drawn from the Runtime's seed and the number of the request.
    stop : str, sequence of str or None
        The text ends before the first of these strings that appears.
    stop_token_ids : sequence of int
        Tokens that end the output, besides the model's end-of-sequence tokens.
    ignore_eos : bool
        Go on after the model's end-of-sequence tokens.
    max_tokens : int or None
        Most tokens to generate; None = what is left of the context.
    min_tokens : int
        No end-of-sequence token, stop token or stop string before this many tokens.
    logprobs : int or None
        Return each token's log-probability, and those of the `logprobs` most likely tokens.
    prompt_logprobs : int or None
        The same for the prompt's tokens.
    logit_bias : mapping of int to float or None
        Added to the logits of these tokens, in [-100, 100].
    include_stop_str_in_output : bool
        Let the text end with the stop string, not before it.
    skip_special_tokens : bool
        Leave special tokens out of the text.

    Raises
    ------
    ValueError, TypeError
        Names the field and its range.
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        self._set("n", integer("n", self.n, 1, 16384))
        self._set("temperature", real("temperature", self.temperature, 0.0, math.inf))
        self._set("top_k", integer("top_k", self.top_k, -1, INT32_MAX))
        self._set("top_p", real("top_p", self.top_p, 0.0, 1.0, open_low=True))
        self._set("min_p", real("min_p", self.min_p, 0.0, 1.0))
        self._set("repetition_penalty", real("repetition_penalty", self.repetition_penalty, 0.0, math.inf, open_low=True))
        self._set("presence_penalty", real("presence_penalty", self.presence_penalty, -2.0, 2.0))
        self._set("frequency_penalty", real("frequency_penalty", self.frequency_penalty, -2.0, 2.0))
        if self.seed is not None:
            self._set("seed", integer("seed", self.seed, 0, 2**64 - 1))
        self._set("stop", _stop_strings(self.stop))
        self._set("stop_token_ids", _token_ids("stop_token_ids", self.stop_token_ids))
        if self.max_tokens is not None:
            self._set("max_tokens", integer("max_tokens", self.max_tokens, 1, INT64_MAX))
        highest = INT64_MAX if self.max_tokens is None else self.max_tokens
        self._set("min_tokens", integer("min_tokens", self.min_tokens, 0, highest, high_name="max_tokens"))
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                self._set(name, integer(name, getattr(self, name), 0, INT32_MAX))
        self._set("logit_bias", _logit_bias(self.logit_bias))
        for name in ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {getattr(self, name)!r}")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        return self.stop if isinstance(self.stop, tuple) else ()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def _stop_strings(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, Sequence) or not all(isinstance(string, str) for string in strings):
        raise TypeError(f"stop must be a string or a sequence of strings, not {shown(value)}")
    if len(strings) > _MAX_STOP_STRINGS or sum(map(len, strings)) > _MAX_STOP_CHARACTERS:
        raise ValueError(f"stop must hold at most {_MAX_STOP_STRINGS} strings of at most {_MAX_STOP_CHARACTERS} characters together")
    if not all(strings):
        raise ValueError("stop must not hold an empty string")
    return tuple(strings)


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    if isinstance(value, (str, bytes, int)) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a sequence of token ids, not {shown(value)}")
    return tuple(integer(f"{name}[{i}]", token, 0, INT32_MAX) for i, token in enumerate(value))


def _logit_bias(value: Any) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError(f"logit_bias must map token ids to numbers, not {shown(value)}")
    bias = {}
    for token, amount in value.items():
        token = integer("a token id of logit_bias", token, 0, INT32_MAX)
        bias[token] = real(f"logit_bias[{token}]", amount, -100.0, 100.0)
    return bias
