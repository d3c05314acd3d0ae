"""Every family against logits and greedy tokens that Hugging Face transformers computed (tests/golden), without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from gossamer import Runtime, SamplingParams
from gossamer.convert import convert

GOLDENS = Path(__file__).resolve().parents[1] / "golden"
TOLERANCE = 1e-4
VISIBLE = 100 * TOLERANCE


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDENS / f"{name}.json").read_text())


def log_softmax(logits: list[float]) -> np.ndarray:
    values = np.asarray(logits, dtype=np.float64)
    return values - values.max() - np.log(np.exp(values - values.max()).sum())


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("name", tiny_models.VARIANTS)
def test_family_matches_hugging_face(name: str, device: str, tmp_path: Path) -> None:
    convert(tiny_models.write(name, tmp_path / "source"), tmp_path / "model")
    expected = golden(name)
    params = SamplingParams(max_tokens=tiny_models.NEW_TOKENS, temperature=0, ignore_eos=True, logprobs=20)
    with Runtime(tmp_path / "model", device=device, num_threads=2) as runtime:
        output = runtime.generate([expected["prompt"]], params)[0].outputs[0]
        scores = runtime.score([expected["prompt"]])[0]
    assert output.token_ids == expected["greedy"]
    np.testing.assert_allclose(scores[1:], expected["prompt_logprobs"], rtol=0, atol=TOLERANCE)
    assert output.logprobs is not None
    exact = log_softmax(expected["last_logits"])
    first = output.logprobs[0]
    assert len(first) == 20
    for token, found in first.items():
        assert found.logprob == pytest.approx(exact[token], abs=TOLERANCE)


@pytest.mark.parametrize("name", tiny_models.VARIANTS)
def test_golden_can_fail(name: str) -> None:
    assert golden(name)["prompt"] == tiny_models.prompt()
    assert len(set(golden(name)["greedy"])) >= 16


Tensors = dict[str, np.ndarray]


def fill(part: str, value: float) -> Callable[[Tensors], None]:
    """Set every tensor whose name contains `part` to one value."""

    def edit(tensors: Tensors) -> None:
        found = [name for name in tensors if part in name]
        assert found, part
        for name in found:
            tensors[name] = np.full_like(tensors[name], value)

    return edit


def shift_positions(tensors: Tensors) -> None:
    name = "model.decoder.embed_positions.weight"
    tensors[name] = np.roll(tensors[name], 1, axis=0)


SCALING = tiny_models.VARIANTS["llama_rope3"]["rope_scaling"]
YARN = tiny_models.VARIANTS["llama_yarn"]["rope_parameters"]
LINEAR = tiny_models.VARIANTS["llama_bias_linear"]["rope_parameters"]
MUTATIONS: dict[str, tuple[str, Callable[[Tensors], None] | None, dict[str, Any]]] = {
    "rope theta": ("llama", None, {"rope_theta": 1000.0}),
    "norm eps": ("llama", None, {"rms_norm_eps": 2e-2}),
    "norm weight": ("llama", fill("input_layernorm", 1.0), {}),
    "final norm": ("llama", fill("model.norm", 1.0), {}),
    "llama3 scaling": ("llama_rope3", None, {"rope_scaling": None}),
    "llama3 factor": ("llama_rope3", None, {"rope_scaling": {**SCALING, "factor": 4.0}}),
    "llama3 low frequencies": ("llama_rope3", None, {"rope_scaling": {**SCALING, "low_freq_factor": 2.0}}),
    "llama3 high frequencies": ("llama_rope3", None, {"rope_scaling": {**SCALING, "high_freq_factor": 8.0}}),
    "llama3 context": ("llama_rope3", None, {"rope_scaling": {**SCALING, "original_max_position_embeddings": 64}}),
    "linear scaling": ("llama_bias_linear", None, {"rope_parameters": {**LINEAR, "factor": 2.0}}),
    "qkv bias": ("llama_bias_linear", fill("q_proj.bias", 0.0), {}),
    "out bias": ("llama_bias_linear", fill("o_proj.bias", 0.0), {}),
    "gate bias": ("llama_bias_linear", fill("gate_proj.bias", 0.0), {}),
    "down bias": ("llama_bias_linear", fill("down_proj.bias", 0.0), {}),
    "tanh gelu": ("llama_bias_linear", None, {"hidden_act": "silu"}),
    "yarn factor": ("llama_yarn", None, {"rope_parameters": {**YARN, "factor": 4.0}}),
    "yarn attention factor": ("llama_yarn", None, {"rope_parameters": {**YARN, "attention_factor": 1.0}}),
    "yarn fast rotations": ("llama_yarn", None, {"rope_parameters": {**YARN, "beta_fast": 2.0}}),
    "yarn slow rotations": ("llama_yarn", None, {"rope_parameters": {**YARN, "beta_slow": 0.25}}),
    "yarn truncation": ("llama_yarn", None, {"rope_parameters": {**YARN, "truncate": False}}),
    "window": ("mistral", None, {"sliding_window": None}),
    "window by one": ("mistral", None, {"sliding_window": 9}),
    "qwen2 v bias": ("qwen2", fill("v_proj.bias", 0.0), {}),
    "window layers": ("qwen2_window", None, {"max_window_layers": 2}),
    "q norm": ("qwen3", fill("q_norm", 1.0), {}),
    "k norm": ("qwen3", fill("k_norm", 1.0), {}),
    "positions": ("opt", shift_positions, {}),
    "layer norm bias": ("opt", fill("self_attn_layer_norm.bias", 0.0), {}),
    "opt out bias": ("opt", fill("out_proj.bias", 0.0), {}),
    "norm after": ("opt_350m", None, {"do_layer_norm_before": True, "_remove_final_layer_norm": True}),
    "exact gelu": ("opt_350m", None, {"activation_function": "relu"}),
    "projection": ("opt_350m", fill("project_in", 0.0), {}),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_breaking_a_feature_shows(mutation: str, tmp_path: Path) -> None:
    name, edit, changes = MUTATIONS[mutation]
    convert(tiny_models.write(name, tmp_path / "source", edit=edit, **changes), tmp_path / "model")
    expected = golden(name)
    with Runtime(tmp_path / "model", device="cpu", num_threads=1) as runtime:
        scores = runtime.score([expected["prompt"]])[0]
    assert np.abs(scores[1:] - np.asarray(expected["prompt_logprobs"])).max() >= VISIBLE
