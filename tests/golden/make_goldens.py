"""Computes the committed goldens with Hugging Face transformers: `python tests/golden/make_goldens.py [NAME ...]`.

For each tiny model: the logits at the prompt's last token, the log-probability of every prompt token, and 64 greedy tokens, in float32.
Run it by hand, when a variant changed; needs torch and transformers.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import tiny_models
import torch
import transformers

DIRECTORY = Path(__file__).parent
torch.set_num_threads(1)  # the models are tiny


def load(directory: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def greedy(model: transformers.PreTrainedModel, tokens: list[int], count: int) -> list[int]:
    """Greedy tokens without any cache, so that nothing but the forward pass is tested."""
    sequence = list(tokens)
    for _ in range(count):
        sequence.append(int(model(torch.tensor([sequence]), use_cache=False).logits[0, -1].argmax()))
    return sequence[len(tokens) :]


@torch.no_grad()
def logprobs(model: transformers.PreTrainedModel, tokens: list[int]) -> np.ndarray:
    """Log-softmax of the logits, float64 [len(tokens), vocab_size]."""
    return torch.log_softmax(model(torch.tensor([tokens]), use_cache=False).logits[0].double(), dim=-1).numpy()


@torch.no_grad()
def golden(directory: Path) -> dict[str, object]:
    model = load(directory)
    tokens = tiny_models.prompt()
    logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    exact = logprobs(model, tokens)
    continuation = greedy(model, tokens, tiny_models.NEW_TOKENS)
    if len(set(continuation)) < 16:
        raise SystemExit(f"{directory.name}: only {len(set(continuation))} distinct greedy tokens; change the seed")
    return {
        "transformers": transformers.__version__,
        "prompt": tokens,
        "last_logits": [round(float(x), 6) for x in logits[-1]],
        "prompt_logprobs": [round(float(exact[i, token]), 6) for i, token in enumerate(tokens[1:])],
        "greedy": continuation,
    }


def main(names: list[str]) -> None:
    for name in names or tiny_models.VARIANTS:
        with tempfile.TemporaryDirectory() as scratch:
            result = golden(tiny_models.write(name, Path(scratch) / name))
        (DIRECTORY / f"{name}.json").write_text(json.dumps(result) + "\n")
        print(f"{name}: {len(set(result['greedy']))} distinct of {tiny_models.NEW_TOKENS} greedy tokens")


if __name__ == "__main__":
    main(sys.argv[1:])
