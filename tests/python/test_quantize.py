"""Rounding to int8, int4 and fp8: the numbers, the files, and what a Runtime makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tiny_model as tiny
from checkpoints import LLAMA_CONFIG, UP, Q, llama_tensors, write_hugging_face
from hypothesis import given, settings
from hypothesis import strategies as st
from test_manifest import broken, signed

from gossamer.checkpoint import BitmapTensor, ModelReader, ModelWriter, ScaledMatrix, pack, pack_scaled, validate
from gossamer.checkpoint.scaled import pack_nibbles, unpack_nibbles, validate_scaled
from gossamer.convert import ConvertOptions, convert, quantize_model
from gossamer.errors import CheckpointError, CheckpointVersionError
from gossamer.quantize import VALUES, Quantizer, quantize

SCALED = ["i8", "e4m3", "i4"]
CONFIG = {"config.json": b'{"architectures": ["LlamaForCausalLM"]}'}
SOURCE = {"kind": "gossamer", "name": "test", "sha256": "0" * 64}


def random_matrix(rows: int, cols: int, *, zeros: float = 0.0, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((rows, cols)).astype(np.float32)
    matrix[rng.random(matrix.shape) < zeros] = 0
    return matrix


def random_scaled(dtype: str, rows: int, cols: int, group: int | None = None, *, seed: int = 1) -> ScaledMatrix:
    """Any values of the dtype, half of them 0."""
    rng = np.random.default_rng(seed)
    low, high = (-8, 8) if dtype == "i4" else (-128, 128)
    values = rng.integers(low, high, (rows, cols)).astype(np.int8)
    values[rng.random(values.shape) < 0.5] = 0
    if dtype == "e4m3":
        values[(values.view(np.uint8) & 0x7F) == 0x7F] = 0
    stored = pack_nibbles(values) if dtype == "i4" else values.view(ml_dtypes.float8_e4m3fn) if dtype == "e4m3" else values
    scales = rng.uniform(0.5, 2, (rows,) if group is None else (rows, -(-cols // group))).astype(np.float32)
    return ScaledMatrix(dtype, (rows, cols), stored, scales, group)


@given(st.lists(st.integers(-8, 7), max_size=33))
def test_nibbles_survive_the_round_trip(values: list[int]) -> None:
    packed = pack_nibbles(np.array(values, np.int8))
    assert packed.size == (len(values) + 1) // 2
    assert unpack_nibbles(packed, len(values)).tolist() == values
    if len(values) > 1:
        assert packed[0] == (values[0] & 15) | (values[1] & 15) << 4  # the first in the low bits


@pytest.mark.parametrize("dtype", SCALED)
@pytest.mark.parametrize(("rows", "cols", "group"), [(1, 1, None), (5, 13, None), (4, 200, 64), (3, 257, 192)])
def test_scaled_matrix_survives_packing_and_files(dtype: str, rows: int, cols: int, group: int | None, tmp_path: Path) -> None:
    matrix = random_scaled(dtype, rows, cols, group)
    by_hand = np.zeros((rows, cols), np.float32)
    for r in range(rows):
        for c in range(cols):
            scale = matrix.scales[r] if group is None else matrix.scales[r, c // group]
            by_hand[r, c] = np.float32(matrix.unpacked()[r, c]) * scale
    assert (matrix.dense() == by_hand).all()
    packed = pack_scaled(matrix)
    validate(packed)
    assert (packed.dense() == by_hand).all()
    assert packed.scaled().values.tobytes() == matrix.values.tobytes() or dtype == "e4m3"  # -0.0 is not kept
    with ModelWriter(tmp_path / "m", side_files=CONFIG, source=SOURCE, producer="test") as out:
        out.add("a.weight", matrix)
        out.add("b.weight", packed)
        manifest = out.finish()
    assert manifest.tensors["a.weight"].scale_group == group
    assert json.loads((tmp_path / "m" / "gossamer.json").read_text())["required_features"] == ["bitmap", "scales"]
    with ModelReader(tmp_path / "m") as model:
        dense, sparse = model.stored("a.weight"), model.stored("b.weight")
        assert isinstance(dense, ScaledMatrix)
        assert isinstance(sparse, BitmapTensor)
        assert dense.values.tobytes() == matrix.values.tobytes()
        assert (dense.dense() == by_hand).all()
        assert (sparse.dense() == by_hand).all()
        assert (model.dense("a.weight") == by_hand).all()
        assert (model.bitmap("a.weight").dense() == by_hand).all()
        for name in ("a.weight", "b.weight"):
            size = sum(part.nbytes for part_name, part in model._parts[manifest.shards[0]].items() if part_name.startswith(name[0]))
            assert model.record(name).stored_bytes == size


def damaged(change: dict[str, Any]) -> BitmapTensor:
    good = pack_scaled(
        ScaledMatrix("i4", (2, 5), pack_nibbles(np.array([[1, 0, 2, 0, 3], [0, 0, 7, 0, 0]], np.int8)), np.ones(2, np.float32))
    )
    return BitmapTensor(**{**vars(good), **change})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"row_offsets": np.array([0, 3])}, "disagree in row 0"),
        ({"values": np.array([0x21, 0x13, 0x07], np.uint8)}, "unused half.*row 0"),
        ({"values": np.array([0x21, 0x03, 0x17], np.uint8)}, "unused half.*row 1"),
        ({"scales": None}, "scales have the wrong shape"),
        ({"scales": np.ones(3, np.float32)}, "scales have the wrong shape"),
        ({"scales": np.ones((2, 1), np.float32)}, "scales have the wrong shape"),
        ({"scales": np.array([1, np.nan], np.float32)}, "not finite.*row 1"),
        ({"group": 64}, "cannot share a scale"),
    ],
)
def test_scaled_bitmaps_are_checked(change: dict[str, Any], text: str) -> None:
    validate(damaged({}))
    with pytest.raises(CheckpointError, match=text):
        validate(damaged(change))


def test_scaled_matrices_are_checked() -> None:
    odd = random_scaled("i4", 2, 7)
    validate_scaled(odd)
    bad = odd.values.copy()
    bad[1, 3] |= 0x30
    with pytest.raises(CheckpointError, match=r"unused half.*row 1"):
        validate_scaled(ScaledMatrix("i4", (2, 7), bad, odd.scales))
    with pytest.raises(CheckpointError, match="values have the wrong shape"):
        validate_scaled(ScaledMatrix("i8", (2, 7), odd.values, odd.scales))


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (broken(("required_features",), ["bitmap"]), CheckpointError, '"scales", which is not a required feature'),
        (broken(("required_features",), ["bitmap", "scales", "x"]), CheckpointVersionError, "x"),
        (broken(("tensors", "a.weight", "scale_group"), 32), CheckpointError, "can share a scale"),
        (broken(("tensors", "a.weight", "scale_group"), 0), CheckpointError, "can share a scale"),
        (broken(("tensors", "a.weight", "scale_group"), True), CheckpointError, "can share a scale"),
        (broken(("tensors", "a.weight", "scale_group"), 256), CheckpointError, "can share a scale"),
        (broken(("tensors", "a.weight", "scale_group"), 128), CheckpointError, "does not hold what the manifest says"),
        (broken(("tensors", "a.weight", "scale_group"), None), CheckpointError, "does not hold what the manifest says"),
        (broken(("tensors", "a.weight", "dtype"), "e4m3"), CheckpointError, "does not hold what the manifest says"),
        (broken(("tensors", "a.weight", "dtype"), "f16"), CheckpointError, "wrong members"),
        (broken(("tensors", "a.weight", "shape"), [600]), CheckpointError, "Only matrices"),
        (broken(("tensors", "b.weight", "nnz"), 7), CheckpointError, "even number"),
        (broken(("tensors", "b.weight", "nnz"), 602), CheckpointError, "expected 0 to 600"),
        (lambda raw: raw["tensors"]["a.weight"].pop("scale_group"), CheckpointError, "wrong members"),
    ],
)  # fmt: skip
def test_malformed_manifest_of_scaled_weights(tmp_path: Path, change: Any, kind: type[CheckpointError], text: str) -> None:
    with ModelWriter(tmp_path / "m", side_files=CONFIG, source=SOURCE, producer="test") as out:
        out.add("a.weight", random_scaled("i8", 3, 200, 64))
        out.add("b.weight", pack_scaled(random_scaled("i4", 3, 200, 64)))
        out.finish()
    raw = json.loads((tmp_path / "m" / "gossamer.json").read_bytes())
    change(raw)
    (tmp_path / "m" / "gossamer.json").write_bytes(signed(raw))
    with pytest.raises(kind, match=text):
        ModelReader(tmp_path / "m")


def test_int8_rounds_to_the_nearest_of_255_steps() -> None:
    matrix = random_matrix(6, 300, zeros=0.4)
    matrix[3] = 0
    rounded = quantize(matrix, "i8")
    validate_scaled(rounded)
    step = np.abs(matrix).max(axis=1, keepdims=True) / 127
    assert (np.abs(rounded.dense() - matrix) <= step * 0.5001).all()
    assert (rounded.dense()[matrix == 0] == 0).all()
    assert np.abs(rounded.values).max(axis=1).tolist() == [127, 127, 127, 0, 127, 127]


def test_fp8_rounds_to_the_nearest_number_with_three_bits() -> None:
    matrix = random_matrix(6, 300, zeros=0.4)
    rounded = quantize(matrix, "e4m3")
    validate_scaled(rounded)
    greatest = np.abs(matrix).max(axis=1, keepdims=True)
    assert (np.abs(rounded.dense() - matrix) <= np.maximum(np.abs(matrix) / 16, greatest / 448 * 2**-10) * 1.0001).all()
    assert np.abs(rounded.values.astype(np.float32)).max() == 448


@pytest.mark.parametrize("group", [64, 128, None])
def test_int4_is_no_worse_than_the_greatest_magnitude_on_the_last_step(group: int | None) -> None:
    matrix = random_matrix(5, 320, zeros=0.3)
    rounded = quantize(matrix, "i4", group)
    validate_scaled(rounded)
    width = group or 320
    padded = np.pad(matrix, ((0, 0), (0, -320 % width))).reshape(5, -1, width)
    step = np.abs(padded).max(axis=2, keepdims=True) / 7
    plain = np.square(np.rint(padded / step) * step - padded).sum()
    assert np.square(rounded.dense() - matrix).sum() < plain
    assert (rounded.dense()[matrix == 0] == 0).all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SCALED), st.integers(1, 9), st.integers(1, 150), st.integers(0, 99))
def test_what_is_rounded_once_is_rounded_to_itself(dtype: str, rows: int, cols: int, seed: int) -> None:
    once = quantize(random_matrix(rows, cols, zeros=0.3, seed=seed), dtype, 64 if dtype == "i4" else None)
    if dtype != "i4":  # of int4 another scale may fit the rounded values as well
        twice = quantize(once.dense(), dtype)
        assert np.allclose(twice.dense(), once.dense(), rtol=1e-6, atol=0)


def test_extreme_rows() -> None:
    tiny, huge = np.full((1, 70), 1e-44, np.float32), np.full((1, 70), 3e38, np.float32)
    for dtype in SCALED:
        for matrix in (tiny, huge, np.zeros((1, 70), np.float32)):
            rounded = quantize(matrix, dtype, 64 if dtype == "i4" else None)
            validate_scaled(rounded)
            assert np.isfinite(rounded.dense()).all()
    assert np.allclose(quantize(huge, "i8").dense(), huge, rtol=1e-6)


def test_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="int8, int4, fp8"):
        Quantizer("int3")
    with pytest.raises(ValueError, match="multiple of 64"):
        Quantizer("int4", 96)


@pytest.mark.parametrize("values", list(VALUES))
def test_convert_rounds_linears_and_head_and_nothing_else(values: str, tmp_path: Path) -> None:
    tensors = llama_tensors(zeros=0.5)
    source = write_hugging_face(tmp_path / "hf", tensors)
    convert(source, tmp_path / "float")
    convert(source, tmp_path / "rounded", ConvertOptions(values=values))
    quantize_model(tmp_path / "float", tmp_path / "later", Quantizer(values))
    with ModelReader(tmp_path / "rounded") as rounded, ModelReader(tmp_path / "later") as later:
        for name, tensor in tensors.items():
            record = rounded.record(name)
            linear = "_proj" in name
            head = name == "model.embed_tokens.weight" and values != "fp8"  # tied
            assert record.dtype == (VALUES[values] if linear else "i8" if head else "f32"), name
            assert record.encoding == ("bitmap" if linear else "dense")
            assert later.record(name).as_json() | {"shard": ""} == record.as_json() | {"shard": ""}
            assert (later.dense(name) == rounded.dense(name)).all()
            if linear:
                kept = rounded.dense(name)
                assert (kept[tensor == 0] == 0).all()
                assert np.abs(kept - tensor).max() < np.abs(tensor).max() / 7


def test_a_converted_model_directory_needs_values(tmp_path: Path) -> None:
    convert(write_hugging_face(tmp_path / "hf", llama_tensors()), tmp_path / "m")
    with pytest.raises(CheckpointError, match="Gossamer model already"):
        convert(tmp_path / "m", tmp_path / "n")


def test_nonfinite_weights_are_not_rounded(tmp_path: Path) -> None:
    tensors = llama_tensors()
    tensors[Q][2, 3] = np.inf
    source = write_hugging_face(tmp_path / "hf", tensors)
    with pytest.raises(CheckpointError, match=r"index \[2, 3\].*without --values"):
        convert(source, tmp_path / "m", ConvertOptions(values="int8", allow_nonfinite=True))


def test_pack_and_quantize_agree_on_what_is_zero() -> None:
    matrix = random_matrix(4, 100, zeros=0.5)
    tensor = Quantizer("int8")(pack(matrix), "linear")
    assert isinstance(tensor, BitmapTensor)
    assert not (tensor.mask() & (matrix == 0)).any()
    assert UP in llama_tensors()
    assert LLAMA_CONFIG["tie_word_embeddings"]


def multiplied_out(model: Path, destination: Path) -> Path:
    """The same model with its weights as the floats that they stand for."""
    with ModelReader(model) as reader, ModelWriter(destination, side_files=reader.side_files(), source=SOURCE, producer="test") as writer:
        for name in reader.names():
            writer.add_dense(name, reader.dense(name))
        writer.finish()
    return destination


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("values", list(VALUES))
def test_runtime_multiplies_by_what_the_values_stand_for(values: str, tied: bool, tmp_path: Path) -> None:
    from gossamer import Runtime

    tensors = tiny.weights()
    if tied:
        del tensors["lm_head.weight"]
    model = tiny.write_model(tmp_path / "float", tiny.side_files(tie_word_embeddings=tied), tensors)
    quantize_model(model, tmp_path / "rounded", Quantizer(values))
    plain = multiplied_out(tmp_path / "rounded", tmp_path / "plain")
    prompt = list(range(20, 60))
    options: dict[str, Any] = {"device": "cpu", "num_threads": 2}
    with Runtime(plain, **options) as exact, Runtime(tmp_path / "rounded", **options) as runtime:
        expected, actual = exact.score([prompt])[0], runtime.score([prompt])[0]
        assert np.allclose(actual, expected, atol=2e-4)
        tokens = [r.generate([prompt], max_tokens=24, temperature=0, ignore_eos=True)[0].outputs[0].token_ids for r in (exact, runtime)]
        assert tokens[0] == tokens[1]
        if values != "fp8" and not tied:  # e4m3 is widened, a tied head's table is one of floats
            assert runtime.info().weight_bytes < 0.6 * exact.info().weight_bytes
    with Runtime(tmp_path / "rounded", dtype="bfloat16", **options) as runtime:
        assert np.abs(np.array(runtime.score([prompt])[0]) - expected).max() < 0.25
    with Runtime(tmp_path / "rounded", device="reference") as reference:
        assert np.allclose(reference.score([prompt])[0], expected, atol=2e-4)


def test_the_core_reads_what_python_wrote(tmp_path: Path) -> None:
    from gossamer import _core

    matrix = random_scaled("i4", 3, 200, 64)
    with ModelWriter(tmp_path / "m", side_files=CONFIG, source=SOURCE, producer="test") as out:
        out.add("a.weight", matrix)
        out.add("b.weight", pack_scaled(matrix))
        out.finish()
    core = _core.Checkpoint.open(str(tmp_path / "m"))
    assert core.tensors()["a.weight"]["scale_group"] == 64
    mask, values, offsets = core.read_sparse("b.weight")
    packed = pack_scaled(matrix)
    assert (np.asarray(mask) == packed.bitmask).all()
    assert (np.asarray(values) == packed.values).all()
    assert np.asarray(offsets)[:-1].tolist() == packed.row_offsets.tolist()
    with pytest.raises(ValueError, match="stored as i4 with scales"):
        core.read_dense("a.weight")


@pytest.mark.parametrize("values", list(VALUES))
def test_prune_rounds_what_it_prunes(values: str, tmp_path: Path) -> None:
    from gossamer.prune import prune

    model = convert_tiny(tmp_path)
    prune(model, {0.5: tmp_path / "pruned"}, method="magnitude")
    prune(model, {0.5: tmp_path / "both"}, method="magnitude", quantizer=Quantizer(values))
    quantize_model(tmp_path / "pruned", tmp_path / "later", Quantizer(values))
    with ModelReader(tmp_path / "both") as both, ModelReader(tmp_path / "later") as later:
        for name in both.names():
            assert both.record(name).dtype == later.record(name).dtype
            assert (both.dense(name) == later.dense(name)).all()
    prune(tmp_path / "both", {0.6: tmp_path / "more"}, method="magnitude")  # values with scales are multiplied out
    with ModelReader(tmp_path / "more") as more, ModelReader(tmp_path / "both") as both:
        assert more.record(UP).dtype == "f32"
        assert more.record("model.embed_tokens.weight").dtype == both.record("model.embed_tokens.weight").dtype
        assert 0.35 < np.count_nonzero(more.dense(UP)) / more.record(UP).size < 0.45


def convert_tiny(tmp_path: Path) -> Path:
    convert(write_hugging_face(tmp_path / "hf", llama_tensors()), tmp_path / "model")
    return tmp_path / "model"


def test_runtime_stacks_weights_of_different_encodings(tmp_path: Path) -> None:
    from gossamer import Runtime

    forms = {
        "q_proj": lambda w: pack_scaled(quantize(w, "i8")),
        "k_proj": lambda w: quantize(w, "i8"),  # with q: a bitmap of i8
        "v_proj": lambda w: quantize(w, "i8"),
        "gate_proj": lambda w: pack_scaled(quantize(w, "i4", 64)),  # with up: f32
        "up_proj": lambda w: pack(w),
        "o_proj": lambda w: quantize(w, "e4m3"),
        "down_proj": lambda w: quantize(w, "i4", 64),
    }
    with ModelWriter(tmp_path / "mixed", side_files=tiny.side_files(), source=SOURCE, producer="test") as writer:
        for name, weight in tiny.weights().items():
            form = next((form for part, form in forms.items() if part in name), lambda w: w)
            writer.add(name, form(weight))
        writer.finish()
    plain = multiplied_out(tmp_path / "mixed", tmp_path / "plain")
    prompt = list(range(30, 60))
    with Runtime(plain, device="cpu", num_threads=2) as exact, Runtime(tmp_path / "mixed", device="cpu", num_threads=2) as runtime:
        assert np.allclose(runtime.score([prompt])[0], exact.score([prompt])[0], atol=2e-4)
