"""Several ranks under mpirun give what one process gives; see test_rank_faults.py for what happens when one of them fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from ranks import MPI_ENVIRONMENT, needs_mpirun, run_ranks
from safetensors.numpy import save_file

from gossamer import Runtime, SamplingParams
from gossamer.convert import convert, quantize_model
from gossamer.quantize import Quantizer

pytestmark = needs_mpirun

GOLDENS = Path(__file__).resolve().parents[1] / "golden"
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "python"
TOLERANCE = 1e-4

# Prints what one Runtime says, as JSON on the last line: greedy tokens of prompts of several lengths together, and scores.
PROGRAM = """
import json, sys
from gossamer import Runtime, SamplingParams
model, prompts, device = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
with Runtime(model, device=device, max_num_batched_tokens=64) as runtime:
    outputs = runtime.generate(prompts, SamplingParams(max_tokens=64, temperature=0, ignore_eos=True))
    sampled = runtime.generate(prompts[0], max_tokens=24, temperature=0.7, top_p=0.9, seed=3, ignore_eos=True, n=2)
    print(json.dumps({
        "ranks": runtime.info().tensor_parallel_size,
        "greedy": [output.outputs[0].token_ids for output in outputs],
        "sampled": [sample.token_ids for sample in sampled[0].outputs],
        "scores": [float(x) for x in runtime.score(prompts[:1])[0]],
        "weight_bytes": runtime.info().weight_bytes,
    }))
"""


def say(num_ranks: int, model: Path, prompts: list[list[int]], tmp_path: Path, device: str = "cpu") -> dict[str, Any]:
    arguments = ["-c", PROGRAM, str(model), json.dumps(prompts), device]
    if num_ranks == 1:
        output = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=120).stdout
    else:
        launch = run_ranks(num_ranks, arguments, tmp_path)
        assert launch.process.returncode == 0, launch.output
        output = launch.output
    lines = [line for line in output.splitlines() if line.startswith("{")]
    assert len(lines) == 1, output  # rank 0 alone speaks
    result: dict[str, Any] = json.loads(lines[0])
    assert result["ranks"] == num_ranks
    return result


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("name", tiny_models.VARIANTS)
def test_every_family_says_the_same(name: str, num_ranks: int, tmp_path: Path) -> None:
    convert(tiny_models.write(name, tmp_path / "source"), tmp_path / "model")
    expected = json.loads((GOLDENS / f"{name}.json").read_text())
    result = say(num_ranks, tmp_path / "model", [expected["prompt"], expected["prompt"][:7]], tmp_path)
    assert result["greedy"][0] == expected["greedy"]
    np.testing.assert_allclose(result["scores"][1:], expected["prompt_logprobs"], rtol=0, atol=TOLERANCE)


def test_eight_ranks_share_two_key_and_value_heads(tmp_path: Path) -> None:
    """Four ranks hold the same head each."""
    config = {**tiny_models.VARIANTS["llama"], "num_attention_heads": 8, "head_dim": 8}
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    save_file(tiny_models.tensors(config, 0), source / "model.safetensors", metadata={"format": "pt"})
    convert(source, tmp_path / "model")
    prompts = [tiny_models.prompt(), [5, 6, 7]]
    alone, together = say(1, tmp_path / "model", prompts, tmp_path), say(8, tmp_path / "model", prompts, tmp_path)
    assert together["greedy"] == alone["greedy"]
    np.testing.assert_allclose(together["scores"], alone["scores"], rtol=0, atol=TOLERANCE)


def test_each_rank_makes_its_own_slice_of_random_weights(tmp_path: Path) -> None:
    program = """
import json, sys
from gossamer import Runtime, SamplingParams
config = json.loads(sys.argv[1])
with Runtime(config, weights="random", sparsity=0.6, device="cpu", seed=4) as runtime:
    tokens = runtime.generate([[3, 4, 5]], SamplingParams(max_tokens=4, temperature=0, ignore_eos=True))[0].outputs[0].token_ids
    next_token = [float(row[-1]) for row in runtime.score([[3, 4, token] for token in range(config["vocab_size"])])]
    print(json.dumps({"tokens": tokens, "next_token": next_token, "weight_bytes": runtime.info().weight_bytes}))
"""
    config = {**tiny_models.VARIANTS["opt"], "vocab_size": 64, "hidden_size": 128, "word_embed_proj_dim": 128, "ffn_dim": 512}

    def run(num_ranks: int) -> dict[str, Any]:
        launch = run_ranks(num_ranks, ["-c", program, json.dumps(config)], tmp_path)
        assert launch.process.returncode == 0, launch.output
        result: dict[str, Any] = json.loads(launch.output.splitlines()[-1])
        return result

    alone, together, again = run(1), run(2), run(2)
    assert together == again
    assert together["weight_bytes"] < 0.7 * alone["weight_bytes"]  # positions and norms are each rank's
    # Were both halves of the vocabulary made of the same numbers, these would be equal.
    first, second = np.split(np.array(together["next_token"]), 2)
    assert np.abs(first - second).max() > 0.01


def drop_half(tensors: dict[str, np.ndarray]) -> None:
    """Half of each linear becomes zero, so that `convert` stores it sparse; rows and columns differ in how much they lose."""
    random = np.random.default_rng(5)
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and "layers" in name:
            threshold = random.random((tensor.shape[0], 1)) * random.random((1, tensor.shape[1]))
            tensors[name] = np.where(random.random(tensor.shape) < 2 * threshold, 0, tensor).astype(tensor.dtype)


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_sparse_weights_are_cut_alike(name: str, tmp_path: Path) -> None:
    convert(tiny_models.write(name, tmp_path / "source", edit=drop_half), tmp_path / "model")
    prompts = [tiny_models.prompt(), tiny_models.prompt()[:5], [7]]
    alone, together = say(1, tmp_path / "model", prompts, tmp_path), say(2, tmp_path / "model", prompts, tmp_path)
    assert together["greedy"] == alone["greedy"]
    assert together["sampled"] == alone["sampled"]
    np.testing.assert_allclose(together["scores"], alone["scores"], rtol=0, atol=TOLERANCE)
    assert together["weight_bytes"] < 0.75 * alone["weight_bytes"]


@pytest.mark.parametrize("values", ["int8", "int4", "fp8"])
def test_rounded_weights_are_cut_alike(values: str, tmp_path: Path) -> None:
    """Scales go with their rows, and a rank's columns begin with a group."""
    config = {**tiny_models.VARIANTS["llama"], "hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    tensors = tiny_models.tensors(config, 0)
    drop_half(tensors)
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    convert(source, tmp_path / "float")
    quantize_model(tmp_path / "float", tmp_path / "model", Quantizer(values))
    prompts = [tiny_models.prompt(), [7]]
    alone, together = say(1, tmp_path / "model", prompts, tmp_path), say(2, tmp_path / "model", prompts, tmp_path)
    assert together["greedy"] == alone["greedy"]
    np.testing.assert_allclose(together["scores"], alone["scores"], rtol=0, atol=TOLERANCE)


def test_examples_and_commands_run_under_mpirun(tiny_model: Path, tmp_path: Path) -> None:
    example = [EXAMPLES / "generate.py", tiny_model]
    cli = ["-c", "from gossamer.cli import main; main()"]
    alone = subprocess.run([sys.executable, *example], capture_output=True, text=True, check=True, timeout=60).stdout
    launch = run_ranks(2, example, tmp_path)
    assert launch.process.returncode == 0, launch.output
    assert [line for line in launch.output.splitlines() if "tokens" not in line] == [
        line for line in alone.splitlines() if "tokens" not in line
    ]
    for arguments in (
        [*cli, "generate", tiny_model, "-p", "Why?", "-n", "8"],
        [*cli, "bench", tiny_model, "--tokens", "8/4", "--repeats", "1", "--format", "json"],
    ):
        launch = run_ranks(2, arguments, tmp_path)
        assert launch.process.returncode == 0, launch.output
        assert launch.output.strip()


def test_chat_reads_from_rank_0(tiny_model: Path) -> None:
    chat = [sys.executable, "-c", "from gossamer.cli import main; main()", "chat", tiny_model, "-n", "5", "-t", "0"]
    options = {"input": "Why?\nHow?\n/quit\n", "stdout": subprocess.PIPE, "text": True, "timeout": 60, "check": True}
    alone = subprocess.run(chat, **options)
    together = subprocess.run(["mpirun", "--oversubscribe", "-n", "2", *chat], env={**os.environ, **MPI_ENVIRONMENT}, **options)
    assert together.stdout == alone.stdout


def test_results_do_not_depend_on_the_company(tmp_path: Path) -> None:
    """A sum over the ranks has one order, whatever the sizes."""
    convert(tiny_models.write("llama", tmp_path / "source"), tmp_path / "model")
    prompt = tiny_models.prompt()
    many = say(4, tmp_path / "model", [prompt, *[prompt[i:] for i in range(1, 12)]], tmp_path)
    alone = say(4, tmp_path / "model", [prompt], tmp_path)
    assert many["greedy"][0] == alone["greedy"][0]
    assert many["scores"] == alone["scores"]


def test_this_process_is_alone(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="mpirun -n 2"):
        Runtime(tiny_model, tensor_parallel_size=2)
    with Runtime(tiny_model, tensor_parallel_size=1) as runtime:
        assert runtime.info().tensor_parallel_size == 1
        assert runtime.generate([[1, 2, 3]], SamplingParams(max_tokens=2))
