"""A real model, dense and pruned, against Hugging Face transformers: 64 greedy tokens of 8 prompts, float32 activations."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranks import run_ranks

from gossamer import Runtime, SamplingParams
from gossamer.checkpoint.export import export_model
from gossamer.demo import models
from gossamer.demo.download import fetch_gguf
from gossamer.prune import prune

pytestmark = [pytest.mark.hf, pytest.mark.slow]

KEPT = Path(__file__).resolve().parents[2] / ".demo"  # shared with `make demo`: the download is 98 MB
NEW_TOKENS = 64
TOLERANCE = 1e-3  # of log-probabilities: 30 layers, and logits up to about 30

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n",
    "Water boils at",
    "Dear Sir or Madam,\n\nI am writing to",
    "The three laws of thermodynamics are",
    "1, 1, 2, 3, 5, 8,",
    "It is a truth universally acknowledged, that",
]


@pytest.fixture(scope="module")
def dense() -> Path:
    KEPT.mkdir(exist_ok=True)
    return models.make_dense(fetch_gguf(KEPT), KEPT, lambda done, total, what: None)


@pytest.mark.parametrize("kind", ["dense", "pruned"])
def test_greedy_tokens_are_those_of_hugging_face(kind: str, dense: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    import make_goldens

    model = dense
    if kind == "pruned":
        model = tmp_path / "pruned"
        prune(dense, {0.3: model}, method="magnitude")
    params = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
    with Runtime(model, device="cpu", max_model_len=256) as runtime:
        outputs = runtime.generate(PROMPTS, params)
        sequences = [out.prompt_token_ids + out.outputs[0].token_ids for out in outputs]
        scores = runtime.score(sequences)
    export_model(model, tmp_path / "export")
    theirs: Any = make_goldens.load(tmp_path / "export")
    for out, sequence, score in zip(outputs, sequences, scores, strict=True):
        tokens = out.outputs[0].token_ids
        expected = make_goldens.logprobs(theirs, sequence)
        # One pass over our own continuation is the greedy loop: the first token that differs shows at its own position.
        assert tokens == expected[len(sequence) - len(tokens) - 1 : -1].argmax(axis=1).tolist(), out.prompt
        np.testing.assert_allclose(score[1:], expected[np.arange(len(sequence) - 1), sequence[1:]], rtol=0, atol=TOLERANCE)


def test_three_ranks_say_the_same(dense: Path, tmp_path: Path) -> None:
    """9 heads and 3 key and value heads: three ranks divide both."""
    if shutil.which("mpirun") is None and not os.environ.get("CI"):
        pytest.skip("mpirun is not installed; 'make setup-dev' installs it")
    program = """
import json, sys
from gossamer import Runtime, SamplingParams
with Runtime(sys.argv[1], device="cpu", max_model_len=256) as runtime:
    outputs = runtime.generate(json.loads(sys.argv[2]), SamplingParams(max_tokens=64, temperature=0, ignore_eos=True))
    print(json.dumps([output.outputs[0].token_ids for output in outputs]))
"""
    pruned = tmp_path / "pruned"
    prune(dense, {0.3: pruned}, method="magnitude")
    for model in (dense, pruned):
        with Runtime(model, device="cpu", max_model_len=256) as runtime:
            alone = runtime.generate(PROMPTS, SamplingParams(max_tokens=64, temperature=0, ignore_eos=True))
        launch = run_ranks(3, ["-c", program, model, json.dumps(PROMPTS)], tmp_path)
        assert launch.process.returncode == 0, launch.output
        assert json.loads(launch.output.splitlines()[-1]) == [output.outputs[0].token_ids for output in alone]
