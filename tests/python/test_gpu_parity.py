"""Every family on a GPU, dense and pruned, against the CPU reference in float32 and against Hugging Face's goldens; a real model, too.

Teacher-forced: the sequence is the golden's prompt and the 64 tokens that transformers drew greedily in float32, so that every position
of it also asks whether the GPU would have drawn the same.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from gossamer import Runtime, SamplingParams
from gossamer.convert import ConvertOptions, convert
from gossamer.prune import prune

GOLDENS = Path(__file__).resolve().parents[1] / "golden"
ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
SHORT = {"float16": "f16", "bfloat16": "bf16"}
TOP = 20
CANDIDATES = [(), ("ahead", "head", "pack")]

Ranking = dict[int, float]  # token -> log-probability, the most likely ones


@dataclass
class Agreement:
    mean_kl: float
    decided: int  # positions whose best token leads by more than the dtype's tolerance
    different: int  # of those, where the GPU's best token is another


def rankings(model: Path, sequence: list[int], **options: Any) -> list[Ranking]:
    """For each position but the first, the most likely tokens."""
    params = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True, prompt_logprobs=TOP)
    with Runtime(model, max_model_len=256, **options) as runtime:
        (output,) = runtime.generate([sequence], params)
    assert output.prompt_logprobs is not None
    return [{token: entry.logprob for token, entry in found.items()} for found in output.prompt_logprobs[1:] if found]


def kl(reference: Ranking, actual: Ranking) -> float:
    """Of the tokens that both name, the others taken as one."""
    common = sorted(set(reference) & set(actual))
    p = [math.exp(reference[token]) for token in common]
    q = [math.exp(actual[token]) for token in common]
    p.append(max(1e-12, 1 - sum(p)))
    q.append(max(1e-12, 1 - sum(q)))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def compare(reference: list[Ranking], actual: list[Ranking], dtype: str) -> Agreement:
    result = Agreement(0.0, 0, 0)
    for a, b in zip(reference, actual, strict=True):
        assert len(set(a) & set(b)) >= TOP // 2
        result.mean_kl += kl(a, b) / len(reference)
        best, second = sorted(a.values(), reverse=True)[:2]
        if best - second > 16 * ROUNDOFF[dtype] * max(abs(x) for x in a.values()):
            result.decided += 1
            result.different += max(a, key=a.__getitem__) != max(b, key=b.__getitem__)
    return result


@pytest.mark.gpu
@pytest.mark.parametrize("candidates", CANDIDATES, ids=["default", "candidates"])
@pytest.mark.parametrize("kind", ["dense", "pruned"])
@pytest.mark.parametrize("dtype", list(ROUNDOFF))
@pytest.mark.parametrize("name", tiny_models.VARIANTS)
def test_families(name: str, dtype: str, kind: str, candidates: tuple[str, ...], gpu: str, tmp_path: Path) -> None:
    # Stored in the GPU's type, so that both sides multiply the same weights.
    convert(tiny_models.write(name, tmp_path / "source"), tmp_path / "model", ConvertOptions(dtype=SHORT[dtype]))
    model = tmp_path / "model"
    if kind == "pruned":
        prune(model, {0.5: tmp_path / "pruned"}, method="magnitude")
        model = tmp_path / "pruned"
    golden = json.loads((GOLDENS / f"{name}.json").read_text())
    sequence = golden["prompt"] + golden["greedy"]
    reference = rankings(model, sequence, device="reference")
    actual = rankings(model, sequence, device=gpu, dtype=dtype, candidates=candidates)
    agreement = compare(reference, actual, dtype)
    assert agreement.different == 0, agreement
    assert agreement.mean_kl < 1e-3, agreement
    assert agreement.decided >= 16, agreement


@pytest.mark.gpu
@pytest.mark.parametrize("name", tiny_models.VARIANTS)
def test_hugging_face_would_have_said_the_same(name: str, gpu: str, tmp_path: Path) -> None:
    """Where transformers' own best token leads clearly, the GPU in float16 has the same one."""
    convert(tiny_models.write(name, tmp_path / "source"), tmp_path / "model")
    golden = json.loads((GOLDENS / f"{name}.json").read_text())
    prompt, greedy = golden["prompt"], golden["greedy"]
    ranked = rankings(tmp_path / "model", prompt + greedy, device=gpu, dtype="float16")[len(prompt) - 1 :]
    decided = 0
    for found, token in zip(ranked, greedy, strict=True):
        best, second = sorted(found.values(), reverse=True)[:2]
        if best - second > 0.1:
            decided += 1
            assert max(found, key=found.__getitem__) == token
    assert decided >= 16
    with Runtime(tmp_path / "model", device=gpu, dtype="float16") as runtime:
        scores = runtime.score([prompt])[0]
    np.testing.assert_allclose(scores[1:], golden["prompt_logprobs"], rtol=0, atol=0.1)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("dtype", list(ROUNDOFF))
def test_smollm2_at_half(dtype: str, gpu: str, tmp_path: Path) -> None:
    from gossamer.demo import models
    from gossamer.demo.download import fetch_gguf

    kept = Path(__file__).resolve().parents[2] / ".demo"
    kept.mkdir(exist_ok=True)
    try:
        dense = models.make_dense(fetch_gguf(kept), kept, lambda done, total, what: None)
    except OSError as error:
        pytest.skip(f"SmolLM2 cannot be fetched: {error}")
    pruned = tmp_path / "pruned"
    prune(dense, {0.5: pruned}, method="magnitude")
    for model in (dense, pruned):
        with Runtime(model, device="cpu", max_model_len=256) as runtime:
            (output,) = runtime.generate(["The capital of France is"], max_tokens=64, temperature=0, ignore_eos=True)
        sequence = output.prompt_token_ids + output.outputs[0].token_ids
        reference = rankings(model, sequence, device="cpu")
        agreement = compare(reference, rankings(model, sequence, device=gpu, dtype=dtype), dtype)
        assert agreement.different == 0, agreement
        assert agreement.mean_kl < 1e-3, agreement
        assert agreement.decided >= 16, agreement


def test_the_comparison_can_fail() -> None:
    """On the CPU, too: rankings of another model are told apart."""
    a: list[Ranking] = [{i: math.log(2.0 ** -(i + 1)) for i in range(TOP)}] * 30
    assert compare(a, a, "float16") == Agreement(pytest.approx(0, abs=1e-9), 30, 0)
    b = [{**r, 0: r[1], 1: r[0]} for r in a]
    worse = compare(a, b, "float16")
    assert worse.different == 30
    assert 0.1 < worse.mean_kl < 10
