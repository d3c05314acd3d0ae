"""gossamer convert from Hugging Face directories: dense, full of zeros, and in the layouts of compressed-tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checkpoints import (
    LAYER,
    LLAMA_CONFIG,
    OPT_CONFIG,
    UP,
    Arrays,
    Q,
    bf16,
    contents,
    edit_json,
    llama_tensors,
    opt_tensors,
    sparse_24,
    sparse_bitmask,
    write_hugging_face,
)

from gossamer.checkpoint import ModelReader
from gossamer.convert import SUPPORTED_ARCHITECTURES, ConvertOptions, convert
from gossamer.errors import CheckpointError, UnsafePathError


def assert_same(model: Path, tensors: Arrays) -> None:
    with ModelReader(model) as reader:
        assert sorted(reader.names()) == sorted(tensors)
        for name, expected in tensors.items():
            got = reader.dense(name)
            assert got.dtype == expected.dtype, name
            assert got.shape == expected.shape, name
            assert got.tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_dense_directory_keeps_every_bit(tmp_path: Path, dtype: Any, shards: int) -> None:
    tensors = llama_tensors(dtype)
    source = write_hugging_face(tmp_path / "hf", tensors, shards=shards)
    manifest = convert(source, tmp_path / "model")
    assert_same(tmp_path / "model", tensors)
    assert {record.encoding for record in manifest.tensors.values()} == {"dense"}
    assert manifest.source["kind"] == "huggingface"
    assert manifest.source["name"] == "hf"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "model"]
    with ModelReader(tmp_path / "model") as reader:
        assert reader.config == LLAMA_CONFIG
        assert reader.side_file("generation_config.json") == (source / "generation_config.json").read_bytes()


def test_linears_full_of_zeros_become_bitmaps(tmp_path: Path) -> None:
    tensors = llama_tensors(np.float16, zeros=0.5)
    tensors["model.embed_tokens.weight"][:] = 0  # not a linear: stays dense
    source = write_hugging_face(tmp_path / "hf", tensors)
    manifest = convert(source, tmp_path / "model")
    assert_same(tmp_path / "model", tensors)
    sparse = {name for name, record in manifest.tensors.items() if record.encoding == "bitmap"}
    assert sparse == {name for name in tensors if "_proj" in name}
    assert manifest.tensors[Q].nnz == np.count_nonzero(tensors[Q])
    assert {r.encoding for r in convert(source, tmp_path / "b", ConvertOptions(bitmap_threshold=2)).tensors.values()} == {"dense"}


def test_threshold_is_inclusive_and_per_tensor(tmp_path: Path) -> None:
    tensors = llama_tensors()
    tensors[Q][:4] = 0  # exactly a quarter
    tensors[UP].reshape(-1)[:95] = 0  # a quarter of 384 is 96
    manifest = convert(write_hugging_face(tmp_path / "hf", tensors), tmp_path / "model")
    assert [name for name, record in manifest.tensors.items() if record.encoding == "bitmap"] == [Q]


def test_untied_head_is_dense_unless_asked(tmp_path: Path) -> None:
    tensors = llama_tensors() | {"lm_head.weight": np.eye(40, 16, dtype=np.float32)}
    source = write_hugging_face(tmp_path / "hf", tensors, LLAMA_CONFIG | {"tie_word_embeddings": False})
    assert convert(source, tmp_path / "a").tensors["lm_head.weight"].encoding == "dense"
    assert convert(source, tmp_path / "b", ConvertOptions(bitmap_head=True)).tensors["lm_head.weight"].encoding == "bitmap"
    assert_same(tmp_path / "b", tensors)


@pytest.mark.parametrize("old_spelling", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_legacy_sparse_bitmask(tmp_path: Path, dtype: Any, old_spelling: bool) -> None:
    tensors = llama_tensors(dtype, zeros=0.6)
    stored: Arrays = {}
    for name, array in tensors.items():
        stored |= sparse_bitmask(name, array, old_spelling=old_spelling) if "_proj" in name else {name: array}
    quantization = {"quant_method": "compressed-tensors", "format": "dense", "sparsity_config": {"format": "sparse-bitmask"}}
    source = write_hugging_face(tmp_path / "hf", stored, LLAMA_CONFIG | {"quantization_config": quantization})
    manifest = convert(source, tmp_path / "model")
    assert_same(tmp_path / "model", tensors)
    assert manifest.tensors[Q].encoding == "bitmap"
    with ModelReader(tmp_path / "model") as reader:
        assert reader.config == LLAMA_CONFIG  # the compression is gone, so its description is too


def test_release_0_5_compressed_every_tensor(tmp_path: Path) -> None:
    tensors = llama_tensors(np.float16, zeros=0.5)
    stored: Arrays = {}
    for name, array in tensors.items():
        stored |= sparse_bitmask(name, array, old_spelling=True)
    assert stored["model.norm.weight.bitmask"].shape == (2,)
    source = write_hugging_face(
        tmp_path / "hf", stored, LLAMA_CONFIG | {"compression_config": {"sparsity_config": {"format": "sparse-bitmask"}}}
    )
    convert(source, tmp_path / "model")
    assert_same(tmp_path / "model", tensors)


def test_sparse_24_bitmask_with_zeros_among_the_kept(tmp_path: Path) -> None:
    tensors = llama_tensors(np.float16)
    stored: Arrays = {}
    for name, array in tensors.items():
        if "_proj" in name:
            quads = array.reshape(-1, 4)
            np.put_along_axis(quads, np.argsort(np.abs(quads.astype(np.float32)), axis=1)[:, :2], 0, axis=1)
            quads[0] = [0, 0, 0, 1]  # only one is left: a zero is stored
            stored |= sparse_24(name, array)
        else:
            stored[name] = array
    source = write_hugging_face(tmp_path / "hf", stored)
    manifest = convert(source, tmp_path / "model")
    assert_same(tmp_path / "model", tensors)
    assert manifest.tensors[Q].nnz == np.count_nonzero(tensors[Q])


def test_opt_names_buffers_and_tied_head(tmp_path: Path) -> None:
    tensors = opt_tensors()
    stored = {name.removeprefix("model."): array for name, array in tensors.items()}  # as OPTModel has them
    stored["lm_head.weight"] = tensors["model.decoder.embed_tokens.weight"].copy()
    convert(write_hugging_face(tmp_path / "hf", stored, OPT_CONFIG), tmp_path / "model")
    assert_same(tmp_path / "model", tensors)
    llama = llama_tensors()
    bare = {name.removeprefix("model."): array for name, array in llama.items()}
    bare["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    convert(write_hugging_face(tmp_path / "bare", bare), tmp_path / "llama")
    assert_same(tmp_path / "llama", llama)


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype", "long"),
    [("f16", np.float16, "float16"), ("bf16", ml_dtypes.bfloat16, "bfloat16"), ("f32", np.float32, "float32")],
)
def test_dtype_option_rounds_to_nearest(tmp_path: Path, dtype: str, numpy_dtype: Any, long: str) -> None:
    tensors = llama_tensors(np.float32, zeros=0.5)
    source = write_hugging_face(tmp_path / "hf", tensors)
    convert(source, tmp_path / "model", ConvertOptions(dtype=dtype))
    assert_same(tmp_path / "model", {name: array.astype(numpy_dtype) for name, array in tensors.items()})
    with ModelReader(tmp_path / "model") as reader:
        assert reader.config["torch_dtype"] == long


def test_values_beyond_f16_are_refused_with_advice(tmp_path: Path) -> None:
    tensors = llama_tensors(bf16(np.float32(0)).dtype)
    tensors[Q][3, 2] = 1e9
    source = write_hugging_face(tmp_path / "hf", tensors)
    with pytest.raises(CheckpointError, match=r"index \[3, 2\] is NaN or infinite.*q_proj.*--dtype bf16"):
        convert(source, tmp_path / "model", ConvertOptions(dtype="f16"))
    convert(source, tmp_path / "model")


def test_nonfinite_weights_are_refused_unless_allowed(tmp_path: Path) -> None:
    tensors = llama_tensors(zeros=0.5)
    tensors[UP][5, 7] = np.nan
    source = write_hugging_face(tmp_path / "hf", tensors)
    with pytest.raises(CheckpointError, match=r"index \[5, 7\].*up_proj.*--allow-nonfinite"):
        convert(source, tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]
    convert(source, tmp_path / "model", ConvertOptions(allow_nonfinite=True))
    assert_same(tmp_path / "model", tensors)


def test_output_depends_on_the_content_alone(tmp_path: Path) -> None:
    tensors = llama_tensors(zeros=0.5)
    convert(write_hugging_face(tmp_path / "a" / "hf", tensors, shards=2), tmp_path / "one")
    convert(write_hugging_face(tmp_path / "b" / "hf", dict(reversed(tensors.items())), shards=3), tmp_path / "two")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(one[name] == two[name] for name in one if name != "gossamer.json")  # which records the source's digest
    convert(tmp_path / "a" / "hf", tmp_path / "three")
    assert contents(tmp_path / "three") == one


def test_links_to_regular_files_are_followed_as_in_hugging_face_caches(tmp_path: Path) -> None:
    tensors = llama_tensors()
    blobs = write_hugging_face(tmp_path / "blobs", tensors)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    convert(snapshot, tmp_path / "model")
    assert_same(tmp_path / "model", tensors)
    assert not any(path.is_symlink() for path in (tmp_path / "model").iterdir())


def test_supported_architectures_are_the_core_s() -> None:
    core = pytest.importorskip("gossamer._core", reason="the C++ core is not built")
    assert sorted(core.supported_architectures()) == sorted(SUPPORTED_ARCHITECTURES)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_the_core_reads_what_we_write(tmp_path: Path, dtype: Any) -> None:
    core = pytest.importorskip("gossamer._core", reason="the C++ core is not built")
    tensors = llama_tensors(dtype, zeros=0.5)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float32)
    manifest = convert(write_hugging_face(tmp_path / "hf", tensors), tmp_path / "model", max_shard_bytes=3000)
    checkpoint = core.Checkpoint.open(str(tmp_path / "model"))
    assert checkpoint.model_id == manifest.model_id
    assert checkpoint.side_file("config.json") == (tmp_path / "model" / "config.json").read_bytes()
    with ModelReader(tmp_path / "model") as reader:
        for name, record in manifest.tensors.items():
            if record.encoding == "dense":
                assert np.asarray(checkpoint.read_dense(name)).tobytes() == tensors[name].tobytes()
                continue
            mask, values, offsets = checkpoint.read_sparse(name)
            ours = reader.bitmap(name)
            assert (mask == ours.bitmask).all()
            assert np.asarray(values).tobytes() == ours.values.tobytes()
            assert list(offsets) == [*ours.row_offsets, ours.nnz]


Change = Callable[[Path], object]


def config(**members: Any) -> Change:
    return lambda source: edit_json(source / "config.json", lambda raw: raw.update(members))


def index(change: Callable[[dict[str, str]], object]) -> Change:
    return lambda source: edit_json(source / "model.safetensors.index.json", lambda raw: change(raw["weight_map"]))


def to_shard(name: str) -> Change:
    return index(lambda weight_map: weight_map.update({Q: name}))


def shard(change: Callable[[bytes], bytes]) -> Change:
    def edit(source: Path) -> None:
        path = source / "model-00001-of-00002.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return edit


def header(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change the first shard's header, keeping the data."""

    def edit(blob: bytes) -> bytes:
        length = int.from_bytes(blob[:8], "little")
        raw = json.loads(blob[8 : 8 + length])
        change(raw)
        text = json.dumps(raw).encode()
        return len(text).to_bytes(8, "little") + text + blob[8 + length :]

    return shard(edit)


def entry(**members: Any) -> Change:
    return header(lambda raw: next(v for k, v in raw.items() if k != "__metadata__").update(members))


def replaced(make: Callable[[Path], object]) -> Change:
    def edit(source: Path) -> None:
        path = source / "model-00001-of-00002.safetensors"
        path.unlink()
        make(path)

    return edit


OVERLAPPING = {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}
MALFORMED: dict[str, tuple[Change, type[CheckpointError], str]] = {
    "unknown architecture": (config(architectures=["GPT2LMHeadModel"]), CheckpointError, r"OPTForCausalLM.*found GPT2LMHeadModel"),
    "no architecture": (config(architectures=None), CheckpointError, "found nothing"),
    "two architectures": (config(architectures=["LlamaForCausalLM"] * 2), CheckpointError, "not supported"),
    "layers": (config(num_hidden_layers=10**9), CheckpointError, "num_hidden_layers"),
    "more layers than weights": (config(num_hidden_layers=3), CheckpointError, r"lacks tensors.*layers\.2\.mlp"),
    "fewer layers than weights": (config(num_hidden_layers=1), CheckpointError, r"does not have.*layers\.1"),
    "untied without head": (config(tie_word_embeddings=False), CheckpointError, r"lacks tensors.*lm_head"),
    "quantised": (config(quantization_config={"quant_method": "gptq"}), CheckpointError, "found gptq"),
    "config groups": (config(quantization_config={"config_groups": {"group_0": {}}}), CheckpointError, "Quantised"),
    "marlin": (config(quantization_config={"format": "marlin-24"}), CheckpointError, r"sparse-24-bitmask, found marlin-24"),
    "config.json missing": (lambda s: (s / "config.json").unlink(), CheckpointError, r"no config\.json"),
    "config.json not JSON": (lambda s: (s / "config.json").write_text("{"), CheckpointError, r"not JSON.*config\.json"),
    "config.json duplicate key": (lambda s: (s / "config.json").write_text('{"a": 1, "a": 2}'), CheckpointError, "twice"),
    "config.json a list": (lambda s: (s / "config.json").write_text("[]"), CheckpointError, "JSON object"),
    "config.json a directory": (lambda s: ((s / "config.json").unlink(), (s / "config.json").mkdir()), UnsafePathError, "regular file"),
    "index without map": (lambda s: (s / "model.safetensors.index.json").write_text("{}"), CheckpointError, "weight_map"),
    "index with numbers": (index(lambda m: m.update({Q: 3})), CheckpointError, "weight_map"),
    "index escapes": (to_shard("../model-00001-of-00002.safetensors"), UnsafePathError, "bare file name"),
    "index absolute": (to_shard("/etc/passwd"), UnsafePathError, "bare file name"),
    "index backslash": (to_shard("a\\b"), UnsafePathError, "bare file name"),
    "index NUL": (to_shard("a\0b"), UnsafePathError, r"bare file name.*\\x00"),
    "index newline": (to_shard("a\nb"), UnsafePathError, r"bare file name.*\\n"),
    "index dot dot": (to_shard(".."), UnsafePathError, "bare file name"),
    "index empty": (to_shard(""), UnsafePathError, "bare file name"),
    "index other case": (to_shard("MODEL-00001-of-00002.safetensors"), CheckpointError, "missing"),
    "index lists more": (index(lambda m: m.update(more="model-00001-of-00002.safetensors")), CheckpointError, "in the index only"),
    "index lists less": (index(lambda m: m.pop(next(iter(m)))), CheckpointError, "in the file only"),
    "no index": (lambda s: (s / "model.safetensors.index.json").unlink(), CheckpointError, "2 safetensors files but no index"),
    "shard missing": (replaced(lambda p: None), CheckpointError, "missing"),
    "shard a directory": (replaced(os.mkdir), UnsafePathError, "regular file"),
    "shard a FIFO": (replaced(os.mkfifo), UnsafePathError, "regular file"),
    "shard a device": (replaced(lambda p: p.symlink_to("/dev/zero")), UnsafePathError, "regular file"),
    "shard dangling": (replaced(lambda p: p.symlink_to("nowhere")), CheckpointError, "leads nowhere"),
    "shard empty": (shard(lambda b: b""), CheckpointError, "too short"),
    "shard cut off": (shard(lambda b: b[:-1]), CheckpointError, "size is not that of its tensors"),
    "shard too long": (shard(lambda b: b + b"\0"), CheckpointError, "size is not that of its tensors"),
    "header length 0": (shard(lambda b: bytes(8) + b[8:]), CheckpointError, "header's length"),
    "header length 2^64-1": (shard(lambda b: b"\xff" * 8 + b[8:]), CheckpointError, "header's length"),
    "header length beyond": (shard(lambda b: len(b).to_bytes(8, "little") + b[8:]), CheckpointError, "header's length"),
    "header with a space first": (shard(lambda b: b[:8] + b" " + b[9:]), CheckpointError, "begin with {"),
    "metadata not strings": (header(lambda raw: raw.update(__metadata__={"a": 1})), CheckpointError, "strings to strings"),
    "shape negative": (entry(shape=[-1, 16]), CheckpointError, "Not a shape"),
    "shape a bool": (entry(shape=[True, 16]), CheckpointError, "Not a shape"),
    "shape a product overflow": (entry(shape=[2**61, 2**61]), CheckpointError, "do not hold"),
    "rank 65": (entry(shape=[1] * 65), CheckpointError, "Not a shape"),
    "dtype unknown": (entry(dtype="F4"), CheckpointError, "Unknown dtype"),
    "dtype of other width": (entry(dtype="F16"), CheckpointError, "do not hold"),
    "dtype of integers": (entry(dtype="I32"), CheckpointError, r"not supported.*found I32"),
    "offsets reversed": (entry(data_offsets=[8, 0]), CheckpointError, "pair of offsets"),
    "offsets huge": (entry(data_offsets=[0, 10**20]), CheckpointError, "pair of offsets"),
    "offsets overlap": (header(lambda raw: raw.update(zz=OVERLAPPING)), CheckpointError, "hole or overlap"),
    "extra member": (entry(more=1), CheckpointError, "wrong members"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_sources(tmp_path: Path, case: str) -> None:
    change, kind, text = MALFORMED[case]
    source = write_hugging_face(tmp_path / "hf", llama_tensors(), shards=2)
    convert(source, tmp_path / "good")
    change(source)
    with pytest.raises(kind, match=text) as caught:
        convert(source, tmp_path / "model")
    assert str(tmp_path) not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good", "hf"]


SPARSE_FAULTS: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "shape missing": (lambda t: t.pop("shape"), r"part of a sparse tensor.*shape"),
    "values missing": (lambda t: t.pop("compressed"), r"part of a sparse tensor.*compressed|not supported.*U8"),
    "shape negative": (lambda t: t.update(shape=np.array([-16, 16])), "Not a shape"),
    "shape huge": (lambda t: t.update(shape=np.array([2**39, 2**39])), "Not a shape"),
    "shape float": (lambda t: t.update(shape=np.array([16.0, 16.0], np.float32)), "Not a shape"),
    "shape of other size": (lambda t: t.update(shape=np.array([8, 16])), "bit mask has the wrong shape"),
    "a mask bit flipped": (lambda t: t["bitmask"].__ixor__(np.eye(16, 2, dtype=np.uint8)), "disagree in row 0"),
    "two errors that cancel": (lambda t: (t["bitmask"][3].__ior__(255), t["bitmask"][4].__iand__(0)), "disagree in row 3"),
    "a value too many": (lambda t: t.update(compressed=np.append(t["compressed"], np.float32(1))), "disagree in row 15"),
    "offsets shifted": (lambda t: t["row_offsets"].__iadd__(1), "first row offset is not 0"),
    "offsets not monotone": (lambda t: t["row_offsets"].__setitem__(5, 0), "disagree in row 4"),
    "offsets too few": (lambda t: t.update(row_offsets=t["row_offsets"][:-1]), "one row offset per row"),
    "no offsets, so 2:4": (lambda t: t.pop("row_offsets"), "2:4 tensor"),
    "values of integers": (lambda t: t.update(compressed=t["compressed"].astype(np.int64)), "not supported"),
}


@pytest.mark.parametrize("case", SPARSE_FAULTS)
def test_malformed_sparse_tensors(tmp_path: Path, case: str) -> None:
    change, text = SPARSE_FAULTS[case]
    tensors = llama_tensors(zeros=0.5)
    base = Q.removesuffix("weight")
    parts = {name.removeprefix(base): array for name, array in sparse_bitmask(Q, tensors.pop(Q), old_spelling=False).items()}
    change(parts)
    source = write_hugging_face(tmp_path / "hf", tensors | {base + part: array for part, array in parts.items()})
    with pytest.raises(CheckpointError, match=text):
        convert(source, tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_2_4_must_keep_two_of_every_four(tmp_path: Path) -> None:
    tensors = llama_tensors()
    parts = sparse_24(Q, tensors.pop(Q))
    bitmask = parts[Q.replace("weight", "bitmask")]
    bitmask[2] = [0b00001111, 0b11110000]  # the row's count is right, its quads are not
    with pytest.raises(CheckpointError, match=r"Two of every four.*row 2, columns 0 to 3"):
        convert(write_hugging_face(tmp_path / "hf", tensors | parts), tmp_path / "model")


def test_pad_bits_of_the_mask_must_be_zero(tmp_path: Path) -> None:
    norm = LAYER + "input_layernorm.weight"
    tensors = llama_tensors()
    parts = sparse_bitmask(norm, tensors.pop(norm)[:13], old_spelling=True)
    parts[norm + ".bitmask"][1] |= 0x80
    with pytest.raises(CheckpointError, match="Pad bits"):
        convert(write_hugging_face(tmp_path / "hf", tensors | parts), tmp_path / "model")


def test_head_that_differs_from_the_tied_embedding_is_refused(tmp_path: Path) -> None:
    tensors = llama_tensors() | {"lm_head.weight": np.ones((40, 16), np.float32)}
    with pytest.raises(CheckpointError, match=r"tied.*different head.*tie_word_embeddings.*false"):
        convert(write_hugging_face(tmp_path / "hf", tensors), tmp_path / "model")


def test_one_tensor_in_two_spellings_is_refused(tmp_path: Path) -> None:
    tensors = llama_tensors()
    with pytest.raises(CheckpointError, match="stored twice"):
        convert(write_hugging_face(tmp_path / "a", tensors | {"norm.weight": tensors["model.norm.weight"]}), tmp_path / "model")
    with pytest.raises(CheckpointError, match="stored twice"):
        convert(write_hugging_face(tmp_path / "b", tensors | sparse_bitmask(Q, tensors[Q], old_spelling=False)), tmp_path / "model")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused_with_advice(tmp_path: Path, name: str) -> None:
    source = write_hugging_face(tmp_path / "hf", llama_tensors())
    (source / "model.safetensors").rename(source / name)
    for path in (source, source / name):
        with pytest.raises(CheckpointError, match=r"pickles.*save_pretrained"):
            convert(path, tmp_path / "model")


def test_sources_that_are_no_checkpoints(tmp_path: Path) -> None:
    source = write_hugging_face(tmp_path / "hf", llama_tensors())
    with pytest.raises(CheckpointError, match="no such file or directory"):
        convert(tmp_path / "nothing", tmp_path / "model")
    with pytest.raises(CheckpointError, match="Give the directory"):
        convert(source / "model.safetensors", tmp_path / "model")
    with pytest.raises(CheckpointError, match="does not begin with GGUF"):
        convert(source / "config.json", tmp_path / "model")
    convert(source, tmp_path / "model")
    with pytest.raises(CheckpointError, match="Gossamer model already"):
        convert(tmp_path / "model", tmp_path / "again")
    (source / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no safetensors"):
        convert(source, tmp_path / "model")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dtype": "f8"}, "dtype must be"),
        ({"bitmap_threshold": -1}, "bitmap_threshold"),
        ({"bitmap_threshold": float("nan")}, "bitmap_threshold"),
    ],
)
def test_senseless_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ConvertOptions(**options)
