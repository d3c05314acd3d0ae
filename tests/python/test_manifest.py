"""Model directories as files: bitmaps, manifest, writer and reader, without the C++ core."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gossamer.checkpoint import BitmapTensor, Manifest, ModelReader, ModelWriter, pack, validate
from gossamer.errors import CheckpointError, CheckpointVersionError, ChecksumError, UnsafePathError

CONFIG = {"config.json": b'{"architectures": ["LlamaForCausalLM"]}'}
SOURCE = {"kind": "gossamer", "name": "test", "sha256": "0" * 64}
SHARD = "model-00001-of-00001.safetensors"
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


def writer(directory: Path, **options: Any) -> ModelWriter:
    return ModelWriter(directory, **{"side_files": CONFIG, "source": SOURCE, "producer": "gossamer test", **options})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((9, 21)).astype(np.float16)
    matrix[rng.random(matrix.shape) < 0.5] = 0
    with writer(tmp_path / "model") as out:
        out.add_dense("model.norm.weight", rng.standard_normal(21).astype(np.float32))
        out.add_bitmap("model.layers.0.mlp.up_proj.weight", matrix)
        out.add_dense("model.embed_tokens.weight", rng.standard_normal((4, 21)).astype(ml_dtypes.bfloat16))
        out.finish()
    return tmp_path / "model"


def raw_arrays(dtype: np.dtype[Any], rank: int) -> st.SearchStrategy[np.ndarray]:
    """Arrays of any bit pattern: every NaN, both zeros, subnormals."""
    bits = np.dtype(f"u{dtype.itemsize}")
    elements = st.one_of(st.sampled_from([0, 1 << (8 * dtype.itemsize - 1)]), st.integers(0, 2 ** (8 * dtype.itemsize) - 1))
    return hnp.arrays(bits, hnp.array_shapes(min_dims=rank, max_dims=rank, min_side=0, max_side=21), elements=elements).map(
        lambda a: a.view(dtype)
    )


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_masked_matrix_survives_packing_bit_for_bit(data: st.DataObject, dtype: np.dtype[Any]) -> None:
    matrix = data.draw(raw_arrays(dtype, 2))
    mask = data.draw(hnp.arrays(np.bool_, matrix.shape))
    packed = pack(matrix, mask)
    validate(packed)
    expected = matrix.copy()
    expected[~mask] = 0
    assert same_bits(packed.dense(), expected)
    assert (packed.mask() == mask).all()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_files_return_every_bit(data: st.DataObject, dtype: np.dtype[Any], tmp_path: Path) -> None:
    matrix, vector = data.draw(raw_arrays(dtype, 2)), data.draw(raw_arrays(dtype, 1))
    mask = data.draw(hnp.arrays(np.bool_, matrix.shape))
    with writer(tmp_path / "m", allow_nonfinite=True, overwrite=True) as out:
        out.add_bitmap("a.weight", matrix, mask)
        out.add_dense("b.bias", vector)
        out.add_dense("c.weight", matrix)
        out.finish()
    with ModelReader(tmp_path / "m") as model:
        assert same_bits(model.dense("b.bias"), vector)
        assert same_bits(model.dense("c.weight"), matrix)
        assert same_bits(model.bitmap("a.weight").values, matrix[mask])
        assert (model.bitmap("a.weight").mask() == mask).all()


def test_the_known_example_byte_for_byte(tmp_path: Path) -> None:
    # 3×13: the example that compressed-tensors' own writer produced.
    matrix = np.zeros((3, 13), np.float16)
    matrix[0, 0], matrix[0, 9], matrix[1, 3], matrix[2, 12] = 1, 2, np.nan, 3
    matrix[2, 0] = -0.0  # not != 0, so not kept
    packed = pack(matrix)
    assert packed.bitmask.tolist() == [[1, 2], [8, 0], [0, 16]]
    assert packed.row_offsets.tolist() == [0, 2, 3]
    assert packed.values.tobytes() == np.array([1, 2, np.nan, 3], np.float16).tobytes()
    with writer(tmp_path / "m", allow_nonfinite=True) as out:
        out.add_bitmap("p.weight", matrix)
        out.finish()
    blob = (tmp_path / "m" / SHARD).read_bytes()
    length = int.from_bytes(blob[:8], "little")
    assert json.loads(blob[8 : 8 + length]) == {
        "__metadata__": {"format": "pt"},
        "p.shape": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]},
        "p.row_offsets": {"dtype": "I64", "shape": [3], "data_offsets": [16, 40]},
        "p.compressed": {"dtype": "F16", "shape": [4], "data_offsets": [40, 48]},
        "p.bitmask": {"dtype": "U8", "shape": [3, 2], "data_offsets": [48, 54]},
    }
    data = np.array([3, 13, 0, 2, 3], "<i8").tobytes() + bytes.fromhex("003c0040007e0042") + bytes([1, 2, 8, 0, 0, 16])
    assert (8 + length) % 8 == 0
    assert blob[8 + length :] == data


def test_safetensors_library_reads_our_shards(model: Path) -> None:
    from safetensors.numpy import load_file

    loaded = load_file(model / SHARD)
    with ModelReader(model) as ours:
        assert same_bits(loaded["model.norm.weight"], ours.dense("model.norm.weight"))
        assert same_bits(loaded["model.layers.0.mlp.up_proj.compressed"], ours.bitmap("model.layers.0.mlp.up_proj.weight").values)


def test_manifest_digest_is_over_the_bytes_after_it(model: Path) -> None:
    data = (model / "gossamer.json").read_bytes()
    assert data[:19] == b'{"digest": "sha256:'
    assert data[19:83].decode() == hashlib.sha256(data[83:]).hexdigest()
    raw = json.loads(data)
    lines = "".join(f"{name} {raw['files'][name]['sha256']}\n" for name in sorted(raw["files"]))
    assert raw["model_id"] == hashlib.sha256(lines.encode()).hexdigest()
    chunk = hashlib.sha256((model / SHARD).read_bytes()).digest()
    assert raw["files"][SHARD]["chunks"] == [chunk.hex()]
    assert raw["files"][SHARD]["sha256"] == hashlib.sha256(chunk).hexdigest()
    assert Manifest.parse(data).render() == data


def test_chunks_of_a_file_larger_than_one(tmp_path: Path) -> None:
    big = np.arange(10_000_000, dtype=np.float32)  # 40 MB: three chunks
    with writer(tmp_path / "m") as out:
        out.add_dense("a.weight", big)
        manifest = out.finish()
    blob = (tmp_path / "m" / SHARD).read_bytes()
    chunks = [hashlib.sha256(blob[i : i + (1 << 24)]) for i in range(0, len(blob), 1 << 24)]
    assert manifest.files[SHARD].chunks == tuple(c.hexdigest() for c in chunks)
    assert manifest.files[SHARD].sha256 == hashlib.sha256(b"".join(c.digest() for c in chunks)).hexdigest()
    with ModelReader(tmp_path / "m") as model:
        assert (model.dense("a.weight") == big).all()


def signed(raw: dict[str, Any] | bytes) -> bytes:
    """A manifest with this content and the right digest."""
    text = raw if isinstance(raw, bytes) else json.dumps({k: v for k, v in raw.items() if k != "digest"}).encode()
    rest = b'", ' + text[1:]
    return b'{"digest": "sha256:' + hashlib.sha256(rest).hexdigest().encode() + rest


def broken(path: tuple[str, ...], value: Any) -> Any:
    def change(raw: dict[str, Any]) -> None:
        *parents, last = path
        for key in parents:
            raw = raw[key]
        raw[last] = value

    return change


MORE = {"encoding": "dense", "dtype": "f32", "shape": [1], "shard": SHARD}
EMPTY_FILE = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest(), "chunks": []}
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (broken(("format",), "other"), CheckpointError, "no Gossamer manifest"),
        (broken(("format_version",), 2), CheckpointVersionError, "newer Gossamer.*expected 1 to 1, found 2"),
        (broken(("format_version",), 0), CheckpointError, "no such format version"),
        (broken(("format_version",), True), CheckpointError, "format_version"),
        (broken(("required_features",), ["bitmap", "telepathy"]), CheckpointVersionError, "telepathy"),
        (broken(("required_features",), []), CheckpointError, "not a required feature"),
        (broken(("model_id",), "0" * 64), CheckpointError, "id is not that of its files"),
        (broken(("producer",), 3), CheckpointError, "field producer"),
        (broken(("pruning",), []), CheckpointError, "pruning"),
        (broken(("tensors",), []), CheckpointError, "field tensors"),
        (broken(("tensors", UP, "encoding"), "zip"), CheckpointError, "Unknown encoding"),
        (broken(("tensors", UP, "dtype"), "i16"), CheckpointError, "Unknown dtype"),
        (broken(("tensors", UP, "dtype"), "i8"), CheckpointError, "wrong members"),
        (broken(("tensors", UP, "extra"), 1), CheckpointError, "wrong members"),
        (broken(("tensors", UP, "nnz"), 190), CheckpointError, "expected 0 to 189, found 190"),
        (broken(("tensors", UP, "nnz"), -1), CheckpointError, "nnz"),
        (broken(("tensors", UP, "shape"), [189]), CheckpointError, "Only matrices"),
        (broken(("tensors", UP, "shape"), [9, -21]), CheckpointError, "Not a shape"),
        (broken(("tensors", UP, "shape"), [9, 2**62]), CheckpointError, "Not a shape"),
        (broken(("tensors", UP, "shape"), [9, 1e3]), CheckpointError, "Not a shape"),
        (broken(("tensors", UP, "shape"), [21, 9]), CheckpointError, "does not hold what the manifest says"),
        (broken(("tensors", UP, "shard"), "../x"), CheckpointError, "Not a bare file name"),
        (broken(("tensors", UP, "shard"), "y.safetensors"), CheckpointError, "does not list"),
        (broken(("tensors", UP, "nnz"), 3), CheckpointError, "does not hold what the manifest says"),
        (broken(("tensors", "more.weight"), MORE), CheckpointError, "found nothing"),
        (lambda raw: raw["tensors"].pop(UP), CheckpointError, "expected nothing"),
        (broken(("files", SHARD, "bytes"), 10), CheckpointError, "wrong size|not that of"),
        (broken(("files", SHARD, "chunks"), []), CheckpointError, "number of chunks"),
        (broken(("files", SHARD, "sha256"), "0" * 64), CheckpointError, "not that of its chunks"),
        (broken(("files", "../evil"), EMPTY_FILE), CheckpointError, "bare file name"),
    ],
)  # fmt: skip
def test_malformed_manifest(model: Path, change: Any, kind: type[CheckpointError], text: str) -> None:
    raw = json.loads((model / "gossamer.json").read_bytes())
    change(raw)
    (model / "gossamer.json").write_bytes(signed(raw))
    with pytest.raises(kind, match=text):
        ModelReader(model)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b'{"format": "a", "format": "b"}', "twice"),
        (b'{"format": NaN}', "no such number"),
        (b'{"format": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
        (b'{"a": [[[[[[[[[1]]]]]]]]]}', "nested"),
        (b'{"format": "\\ud800"}', "surrogate"),
        (b'{"format": "\xff"}', "UTF-8"),
        (b'{"format": 1} x', "not JSON"),
    ],
)
def test_manifest_that_is_not_strict_json(model: Path, text: bytes, match: str) -> None:
    (model / "gossamer.json").write_bytes(signed(text))
    with pytest.raises(CheckpointError, match=match):
        ModelReader(model)


def test_every_changed_byte_of_manifest_shard_and_side_file_is_noticed(model: Path) -> None:
    def read_all() -> None:
        with ModelReader(model) as reader:
            reader.side_files()
            for _ in reader.tensors():
                pass

    for name in ("gossamer.json", SHARD, "config.json"):
        good = (model / name).read_bytes()
        for position in range(0, len(good), 7):
            bad = bytearray(good)
            bad[position] ^= 1 << (position % 8)
            (model / name).write_bytes(bad)
            with pytest.raises(CheckpointError):
                read_all()
        (model / name).write_bytes(good[:-1])
        with pytest.raises(CheckpointError):
            read_all()
        (model / name).write_bytes(good)
    read_all()


def test_checksum_error_carries_both_digests(model: Path) -> None:
    blob = bytearray((model / SHARD).read_bytes())
    blob[-1] ^= 1
    (model / SHARD).write_bytes(blob)
    with pytest.raises(ChecksumError, match="changed or damaged") as caught:
        ModelReader(model)
    assert caught.value.file == SHARD
    assert caught.value.found == hashlib.sha256(blob).hexdigest()
    assert caught.value.expected != caught.value.found


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "missing"])
def test_a_shard_that_is_no_regular_file(model: Path, kind: str) -> None:
    import os

    shard = model / SHARD
    shard.rename(model.parent / "elsewhere")
    if kind == "symlink":
        shard.symlink_to(model.parent / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(shard)
    elif kind == "directory":
        shard.mkdir()
    with pytest.raises(CheckpointError if kind == "missing" else UnsafePathError, match=r"missing|symbolic|regular"):
        ModelReader(model)


def test_plain_directory_names_the_convert_command(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"gossamer convert {tmp_path}"):
        ModelReader(tmp_path)


def _bitmap(**change: Any) -> BitmapTensor:
    good = pack(np.array([[1, 0, 2], [0, 0, 3]], np.float32))
    return BitmapTensor(**{"shape": good.shape, "values": good.values, "bitmask": good.bitmask, "row_offsets": good.row_offsets, **change})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bitmask": np.array([[5], [12]], np.uint8)}, "Pad bits"),
        ({"bitmask": np.array([[4], [6]], np.uint8)}, "disagree in row 0"),  # the two errors cancel in the sum
        ({"bitmask": np.array([[5, 0], [4, 0]], np.uint8)}, "wrong shape"),
        ({"row_offsets": np.array([1, 2])}, "first row offset"),
        ({"row_offsets": np.array([0, 1])}, "disagree in row 0"),
        ({"row_offsets": np.array([0, 4])}, "disagree in row 0"),
        ({"row_offsets": np.array([0])}, "one row offset per row"),
        ({"values": np.zeros(4, np.float32)}, "disagree in row 1"),
    ],
)
def test_bitmaps_are_checked_per_row(change: dict[str, Any], text: str) -> None:
    validate(_bitmap())
    with pytest.raises(CheckpointError, match=text):
        validate(_bitmap(**change))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("encoding", ["dense", "bitmap"])
def test_nonfinite_values_are_refused_with_their_index(tmp_path: Path, value: float, dtype: np.dtype[Any], encoding: str) -> None:
    matrix = np.eye(5).astype(dtype)
    matrix[3, 1] = value
    with pytest.raises(CheckpointError, match=r"index \[3, 1\].*a\.weight"), writer(tmp_path / "m") as out:
        getattr(out, f"add_{encoding}")("a.weight", matrix)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("config", [b"{}", b"[]", b"x", b'{"architectures": []}', b'{"architectures": [3]}'])
def test_writer_needs_an_architecture(tmp_path: Path, config: bytes) -> None:
    with pytest.raises(CheckpointError, match="architectures"):
        writer(tmp_path / "m", side_files={"config.json": config})
    assert list(tmp_path.iterdir()) == []


def test_misuse_of_the_writer(tmp_path: Path) -> None:
    with writer(tmp_path / "m") as out:
        out.add_dense("a.weight", np.zeros(3, np.float32))
        with pytest.raises(ValueError, match="added before"):
            out.add_dense("a.weight", np.zeros(3, np.float32))
        with pytest.raises(TypeError, match="float64"):
            out.add_dense("b.weight", np.zeros(3))
        with pytest.raises(ValueError, match=r"\*\.weight"):
            out.add_bitmap("b.bias", np.zeros((3, 3), np.float32))
        with pytest.raises(ValueError, match="matrix"):
            out.add_bitmap("b.weight", np.zeros(3, np.float32))
    assert list(tmp_path.iterdir()) == []
    with writer(tmp_path / "m") as out:
        out.add_bitmap("a.weight", np.zeros((3, 3), np.float32))
        out.add_dense("a.shape", np.zeros(3, np.float32))
        with pytest.raises(ValueError, match="two tensors"):
            out.finish()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="bare names"):
        writer(tmp_path / "m", side_files={**CONFIG, "../x": b""})
