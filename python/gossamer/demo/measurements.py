"""What the demo shows of each model: perplexity (kept between runs), speed and memory (measured each time), answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gossamer import _core, texts
from gossamer.bench.fresh import measure_fresh
from gossamer.bench.measure import Row, Shape
from gossamer.evaluate import WINDOW, EvaluationText, TextScore, score_text
from gossamer.runtime import Runtime

__all__ = ["MAX_ANSWER_TOKENS", "NUM_WINDOWS", "PROMPTS", "Perplexities", "answers", "speed"]

NUM_WINDOWS = 8  # of each evaluation text
MAX_ANSWER_TOKENS = 64
PROMPTS = texts.PROMPTS


@dataclass(frozen=True)
class Perplexities:
    """A model's scores, one per evaluation text."""

    scores: tuple[TextScore, ...]

    @classmethod
    def of(cls, model: Path, cache: Path, progress: Callable[[int, int], None]) -> Perplexities:
        """Score the model, or find its scores under the same model, texts and build."""
        with Runtime(model, max_num_seqs=1) as runtime:
            window = min(WINDOW, runtime.info().max_model_len)
            found = [EvaluationText.from_file(path, runtime.tokenizer, window=window, max_windows=NUM_WINDOWS) for path in texts.EVALUATION]
            key = _key(runtime.info().model_id, found)
            known = json.loads(cache.read_text()) if cache.exists() else {}
            if key not in known:
                total, before = sum(len(text.sequences) for text in found), 0
                losses = []
                for text in found:
                    score = score_text(runtime, text, lambda done, before=before: progress(before + done, total))  # type: ignore[misc]
                    losses.append(score.losses.tolist())
                    before += len(text.sequences)
                known[key] = losses
                cache.write_text(json.dumps(known))
        return cls(tuple(TextScore(np.array(losses)) for losses in known[key]))


def _key(model_id: str, found: list[EvaluationText]) -> str:
    """Names everything that the scores depend on, the libraries' bytes included."""
    library = Path(_core.__file__).parent / "libgossamer.so"
    parts = [
        model_id,
        str(NUM_WINDOWS),
        *(f"{text.sha256} {text.window}" for text in found),
        hashlib.sha256(library.read_bytes()).hexdigest(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def speed(model: Path, shape: Shape, repeats: int) -> Row:
    """Measured in a process of its own, so that the peak memory is this model's."""
    return measure_fresh(model, shape, repeats=repeats)


def answers(model: Path) -> list[str]:
    """The model's greedy answer to each prompt."""
    with Runtime(model, max_num_seqs=len(PROMPTS)) as runtime:
        conversations = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
        outputs = runtime.chat(conversations, temperature=0.0, max_tokens=MAX_ANSWER_TOKENS)
    return [output.outputs[0].text.strip() + ("" if output.outputs[0].finish_reason == "stop" else " …") for output in outputs]
