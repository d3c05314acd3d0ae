"""Gossamer as a model of EleutherAI's lm-evaluation-harness (the extra `[eval]`).

>>> import lm_eval
>>> from gossamer.evaluate.harness import GossamerLM
>>> results = lm_eval.simple_evaluate(model=GossamerLM("models/smollm2-50"), tasks=["arc_easy"])
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise ImportError("the evaluation harness is not installed; run: pip install 'gossamer[eval]'") from error

from tqdm import tqdm

from gossamer.runtime import Runtime

__all__ = ["GossamerLM"]

_MAX_NEW_TOKENS = 256  # where a task does not say


@register_model("gossamer")
class GossamerLM(TemplateLM):
    """A model directory behind the harness's interface: log-likelihoods and greedy or sampled continuations.

    Parameters
    ----------
    pretrained : model directory (the harness's name for it, as in --model_args pretrained=models/smollm2-50)
    batch_size : requests that are in flight together; their results do not depend on it
    options : further keyword arguments of `Runtime`
    """

    def __init__(self, pretrained: str | os.PathLike[str], batch_size: int | str = 8, **options: Any) -> None:
        super().__init__()
        options.pop("max_batch_size", None)  # the harness passes it to every model
        if options.get("device") is None:
            options.pop("device", None)
        self._batch = 8 if batch_size == "auto" else int(batch_size)
        self._runtime = Runtime(os.fspath(pretrained), max_num_seqs=self._batch, **options)
        self._tokenizer = self._runtime.tokenizer
        self._longest = self._runtime.info().max_model_len

    @property
    def eot_token_id(self) -> int:
        return self._runtime.info().eos_token_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context: the beginning of a text, where the model has one."""
        special = self._tokenizer.encode("")
        return special[0] if special else self.eot_token_id

    @property
    def max_length(self) -> int:
        return self._longest

    @property
    def tokenizer_name(self) -> str:
        return self._runtime.info().model_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return list(self._tokenizer.encode(string, add_special_tokens=add_special_tokens is not False))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self._tokenizer.decode(
            self._runtime.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt), skip_special_tokens=False
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **options: Any
    ) -> list[tuple[float, bool]]:
        """(sum of the continuation's log-probabilities, whether each of its tokens is the likeliest) per request.

        Of a sequence longer than the context, the end is kept.
        """
        results = []
        for begin in tqdm(range(0, len(requests), self._batch), disable=disable_tqdm, desc="loglikelihood"):
            batch = requests[begin : begin + self._batch]
            sequences = [(context + continuation)[-(self._longest - 1) :] for _, context, continuation in batch]
            outputs = self._runtime.generate(sequences, max_tokens=1, ignore_eos=True, prompt_logprobs=0)
            for (_, _, continuation), output in zip(batch, outputs, strict=True):
                if len(continuation) >= len(output.prompt_token_ids):
                    raise ValueError(f"a continuation of {len(continuation)} tokens does not fit a context of {self._longest}")
                assert output.prompt_logprobs is not None
                entries = output.prompt_logprobs[len(output.prompt_token_ids) - len(continuation) :]
                found = [entry[token] for entry, token in zip(entries, continuation, strict=True) if entry is not None]
                results.append((sum(one.logprob for one in found), all(one.rank == 1 for one in found)))
        return results

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of the context that do not overlap where they are predicted."""
        totals = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._longest - 2,  # besides the prefix and the token that `generate` adds
                context_len=1,
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(sum(score for score, _ in self._loglikelihood_tokens(pairs, disable_tqdm)))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to, without, the first of the task's stop strings."""
        texts = []
        for request in tqdm(requests, disable=disable_tqdm, desc="generate_until"):
            context, settings = request.args
            until = settings.get("until") or []
            new_tokens = int(settings.get("max_gen_toks") or _MAX_NEW_TOKENS)
            prompt = self.tok_encode(context)[-(self._longest - new_tokens) :]
            sampled = settings.get("do_sample", False) or settings.get("temperature", 0) > 0
            chosen = {name: settings[name] for name in ("top_p", "top_k", "seed") if sampled and name in settings}
            (output,) = self._runtime.generate(
                [prompt],
                max_tokens=new_tokens,
                temperature=float(settings.get("temperature", 1.0)) if sampled else 0.0,
                stop=[until] if isinstance(until, str) else list(until),
                **chosen,
            )
            texts.append(output.outputs[0].text)
        return texts

    def close(self) -> None:
        self._runtime.close()
