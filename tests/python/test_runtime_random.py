"""Models of random weights: a configuration is all they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest

from gossamer import Runtime, SamplingParams

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


def tokens(**options: object) -> tuple[int, ...]:
    with Runtime(CONFIG, weights="random", device="cpu", num_threads=1, **options) as runtime:  # type: ignore[arg-type]
        (output,) = runtime.generate([1, 2, 3], GREEDY)
        return tuple(output.outputs[0].token_ids)


def test_the_seed_alone_decides_the_weights() -> None:
    assert tokens(seed=1, sparsity=0.5) == tokens(seed=1, sparsity=0.5)
    assert len({tokens(seed=seed, sparsity=0.5) for seed in range(4)}) > 1


def test_sparsity_is_that_of_the_layers_products() -> None:
    with Runtime(CONFIG, weights="random", sparsity=0.6, device="cpu", num_threads=1) as runtime:
        info = runtime.info()
        assert info.sparsity == pytest.approx(0.6, abs=0.01)
        assert info.model_id == "random"
    with Runtime(CONFIG, weights="random", device="cpu", num_threads=1) as runtime:
        assert runtime.info().sparsity == 0.0


@pytest.mark.parametrize("values", ["int8", "fp8"])
def test_values_may_have_eight_bits(values: Literal["int8", "fp8"]) -> None:
    outputs = []
    for kind in (values, None):
        with Runtime(CONFIG, weights="random", sparsity=0.5, values=kind, device="reference") as runtime:
            outputs.append((runtime.info().weight_bytes, runtime.generate([1, 2, 3], GREEDY)[0].outputs[0].token_ids))
    (eight, tokens_eight), (plain, tokens_plain) = outputs
    assert eight != plain
    assert len(tokens_eight) == len(tokens_plain)


def test_a_configuration_may_be_a_file_or_a_directory(tmp_path: Path) -> None:
    directory = tmp_path / "tiny"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    for model in (directory, directory / "config.json"):
        with Runtime(model, weights="random", device="cpu", num_threads=1) as runtime:
            assert runtime.info().model_path_name == "tiny"


def test_candidates_give_the_same_tokens() -> None:
    assert tokens(seed=1, sparsity=0.5, candidates=["ahead", "head"]) == tokens(seed=1, sparsity=0.5)
    with pytest.raises(ValueError, match="cpu has none called 'faster'"):
        tokens(candidates=["faster"])
    with pytest.raises(TypeError, match="sequence of names"):
        tokens(candidates="ahead")


def test_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights must be 'stored' or 'random'"):
        Runtime(tmp_path, weights="dummy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sparsity is that of random weights"):
        Runtime(tmp_path, sparsity=0.5)
    with pytest.raises(ValueError, match="values are those of random weights"):
        Runtime(tmp_path, values="fp8")
    with pytest.raises(ValueError, match="values must be int8 or fp8, not 'fp4'"):
        Runtime(CONFIG, weights="random", values="fp4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="eight_bit must be auto, off, weights or activations, not 'on'"):
        Runtime(CONFIG, weights="random", eight_bit="on")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sparsity must be"):
        Runtime(CONFIG, weights="random", sparsity=1.5)
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        Runtime(tmp_path, weights="random")
    with pytest.raises(TypeError, match="enforce_eager"):
        Runtime(CONFIG, weights="random", enforce_eager=1)  # type: ignore[arg-type]
