"""gossamer export and inspect: the way back to plain safetensors, and what a model holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import LLAMA_CONFIG, Q, bf16, contents, llama_tensors, write_hugging_face
from click.testing import CliRunner
from safetensors.numpy import load_file

from gossamer.checkpoint import ModelReader
from gossamer.checkpoint.export import export_model
from gossamer.checkpoint.inspect import histogram, summarize
from gossamer.cli.convert import command as convert_command
from gossamer.cli.export import command as export_command
from gossamer.cli.inspect import command as inspect_command
from gossamer.convert import convert
from gossamer.errors import CheckpointError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of all three dtypes, with sparse linears."""
    tensors = llama_tensors(np.float16, zeros=0.5)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float32)
    tensors[Q] = bf16(tensors[Q])
    tensors["model.layers.0.self_attn.v_proj.weight"][:] = 1
    convert(write_hugging_face(tmp_path / "hf", tensors), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("max_bytes", [10**9, 2000])
def test_export_writes_what_the_source_held(tmp_path: Path, model: Path, max_bytes: int) -> None:
    export_model(model, tmp_path / "out", max_shard_bytes=max_bytes)
    out = tmp_path / "out"
    shards = sorted(path.name for path in out.glob("*.safetensors"))
    if max_bytes > 10**6:
        assert shards == ["model.safetensors"]
    else:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert sorted(set(index["weight_map"].values())) == shards
        assert all(name.endswith(f"-of-{len(shards):05d}.safetensors") for name in shards)
        for shard in shards:
            assert sorted(load_file(out / shard)) == sorted(n for n, s in index["weight_map"].items() if s == shard)
    loaded: dict[str, Any] = {}
    for shard in shards:
        loaded |= load_file(out / shard)
    with ModelReader(model) as reader:
        assert sorted(loaded) == sorted(reader.names())
        for name in reader.names():
            expected = reader.dense(name)
            assert loaded[name].dtype == expected.dtype
            assert loaded[name].tobytes() == expected.tobytes()
    assert json.loads((out / "config.json").read_text()) == LLAMA_CONFIG
    assert (out / "generation_config.json").read_bytes() == (model / "generation_config.json").read_bytes()
    assert not (out / "gossamer.json").exists()


def test_exported_directory_converts_to_the_same_model(tmp_path: Path, model: Path) -> None:
    export_model(model, tmp_path / "hf2", max_shard_bytes=3000)
    convert(tmp_path / "hf2", tmp_path / "again")
    first, second = contents(model), contents(tmp_path / "again")
    assert first.keys() == second.keys()
    assert all(first[name] == second[name] for name in first if name != "gossamer.json")


def test_exported_tensors_are_aligned(tmp_path: Path, model: Path) -> None:
    export_model(model, tmp_path / "out")
    blob = (tmp_path / "out" / "model.safetensors").read_bytes()
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % {"F32": 4, "F16": 2, "BF16": 2}[entry["dtype"]] == 0


def test_export_names_the_dtype_if_the_configuration_does_not(tmp_path: Path) -> None:
    config = {key: value for key, value in LLAMA_CONFIG.items() if key != "torch_dtype"}
    convert(write_hugging_face(tmp_path / "hf", llama_tensors(np.float16), config), tmp_path / "model")
    export_model(tmp_path / "model", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float16"


def test_export_replaces_only_exports_and_only_when_asked(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out"
    export_model(model, out)
    with pytest.raises(FileExistsError, match="--overwrite"):
        export_model(model, out)
    (out / "model-00007-of-00009.safetensors").write_bytes(b"stale")
    export_model(model, out, overwrite=True)
    assert not (out / "model-00007-of-00009.safetensors").exists()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        export_model(model, out, overwrite=True)
    with pytest.raises(FileExistsError, match=r"gossamer\.json"):
        export_model(model, model, overwrite=True)


def test_damage_is_noticed_while_exporting_and_nothing_is_left(tmp_path: Path, model: Path) -> None:
    shard = model / "model-00001-of-00001.safetensors"
    blob = bytearray(shard.read_bytes())
    blob[-1] ^= 1
    shard.write_bytes(blob)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="changed or damaged"):
        export_model(model, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.hf
def test_transformers_loads_the_export(tmp_path: Path, model: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (make test-hf)")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (make test-hf)")
    export_model(model, tmp_path / "out", max_shard_bytes=3000)
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    state = loaded.state_dict()
    with ModelReader(model) as reader:
        for name in reader.names():
            assert (state[name].numpy() == reader.dense(name).astype(np.float32)).all(), name
    assert (state["lm_head.weight"] == state["model.embed_tokens.weight"]).all()


def test_summary_counts_zeros_and_bytes(model: Path) -> None:
    summary = summarize(model)
    with ModelReader(model) as reader:
        for tensor in summary.tensors:
            values = reader.dense(tensor.name).astype(np.float32)
            assert tensor.shape == values.shape
            assert tensor.zeros == np.count_nonzero(values == 0)
    shard = (model / "model-00001-of-00001.safetensors").read_bytes()
    assert sum(t.bytes for t in summary.tensors) == len(shard) - 8 - int.from_bytes(shard[:8], "little")
    assert summary.file_bytes == sum(path.stat().st_size for path in model.iterdir() if path.name != "gossamer.json")
    counts = histogram(summary.tensors)
    assert sum(counts) == sum(t.size for t in summary.tensors if len(t.shape) == 2)
    assert counts[19] == 40 * 16 + 8 * 16  # the embedding and the matrix of ones are full
    quick = summarize(model, read_data=False)
    assert [(t.name, t.bytes) for t in quick.tensors] == [(t.name, t.bytes) for t in summary.tensors]
    assert all(t.zeros is None for t in quick.tensors if t.encoding == "dense")


def test_inspect_command(tmp_path: Path, model: Path) -> None:
    result = CliRunner().invoke(inspect_command, [str(model), "--png", str(tmp_path / "h.png")])
    assert result.exit_code == 0, result.output
    row = next(line for line in result.output.splitlines() if line.startswith(Q))
    assert row.split()[1:4] == ["bitmap", "bf16", "16×16"]
    assert "density of matrices" in result.output
    assert "95-100%" in result.output
    pytest.importorskip("matplotlib", reason="the extra [plot] is not installed")
    assert (tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")
    short = CliRunner().invoke(inspect_command, [str(model), "--totals", "--quick"])
    assert Q not in short.output
    parsed = json.loads(CliRunner().invoke(inspect_command, [str(model), "--json"]).stdout)
    assert parsed["totals"]["tensors"] == len(parsed["tensors"]) == 20
    assert parsed["totals"]["bitmap_zeros"] == sum(t["zeros"] for t in parsed["tensors"] if t["encoding"] == "bitmap")


def test_inspect_of_a_plain_directory_names_the_convert_command(tmp_path: Path, model: Path) -> None:
    result = CliRunner().invoke(inspect_command, [str(tmp_path / "hf")])
    assert isinstance(result.exception, CheckpointError)
    assert f"gossamer convert {tmp_path / 'hf'}" in str(result.exception)


def test_convert_and_export_commands(tmp_path: Path, model: Path) -> None:
    runner = CliRunner()
    result = runner.invoke(convert_command, [str(tmp_path / "hf"), str(tmp_path / "two"), "--dtype", "bf16", "--bitmap-threshold", "0.4"])
    assert result.exit_code == 0, result.output
    assert "LlamaForCausalLM, 20 tensors (" in result.output
    assert isinstance(runner.invoke(convert_command, [str(tmp_path / "hf"), str(tmp_path / "two")]).exception, FileExistsError)
    result = runner.invoke(convert_command, [str(tmp_path / "hf"), str(tmp_path / "two"), "--overwrite", "--no-resume"])
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "two") == contents(model)
    result = runner.invoke(export_command, [str(tmp_path / "two"), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "3 files" in result.output
