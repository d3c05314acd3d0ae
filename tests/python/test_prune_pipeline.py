"""From a model directory to pruned ones: what is pruned, what is copied, resuming, errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gossamer.checkpoint import ModelReader, ModelWriter
from gossamer.prune import CalibrationSet, keep_masks, prune
from gossamer.token_windows import windows
from gossamer.tokenizer import Tokenizer as OurTokenizer

HIDDEN, INNER, VOCAB, LAYERS = 16, 24, 32, 2
CALIBRATION = CalibrationSet((((1, 2, 3), (4, 5)),))


def tiny_tokenizer(bos: bool = False) -> bytes:
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "[UNK]": 1} | {chr(97 + i): i + 2 for i in range(26)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer.to_str().encode()


def make_model(path: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    config = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode()
    side_files = {"config.json": config, "tokenizer.json": tiny_tokenizer()}
    source = {"kind": "huggingface", "name": "tiny", "sha256": "0" * 64}
    with ModelWriter(path, side_files=side_files, source=source, producer="test") as writer:
        writer.add_dense("model.embed_tokens.weight", rng.standard_normal((VOCAB, HIDDEN)).astype(np.float16))
        for i in range(LAYERS):
            for name, shape in {
                "self_attn.q_proj": (HIDDEN, HIDDEN),
                "mlp.up_proj": (INNER, HIDDEN),
                "mlp.down_proj": (HIDDEN, INNER),
            }.items():
                writer.add_dense(f"model.layers.{i}.{name}.weight", rng.standard_normal(shape).astype(np.float16))
            writer.add_dense(f"model.layers.{i}.input_layernorm.weight", rng.standard_normal(HIDDEN).astype(np.float32))
        writer.finish()
    return path


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "dense")


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_projections_are_pruned_and_the_rest_is_copied(model, tmp_path):
    phases = []
    reports = prune(
        model, {0.25: tmp_path / "a", 0.5: tmp_path / "b"}, method="magnitude", progress=lambda phase, done, total: phases.append(phase)
    )
    assert set(phases) == {"write"}
    with ModelReader(model) as dense:
        for report in reports:
            with ModelReader(report.directory) as pruned:
                assert pruned.names() == dense.names()
                zeros = 0
                for name in dense.names():
                    before, after = dense.dense(name), pruned.dense(name)
                    if "_proj" in name:
                        mask = keep_masks(before, [report.sparsity])[0]
                        np.testing.assert_array_equal(after, np.where(mask, before, 0))
                        assert pruned.record(name).encoding == "bitmap"
                        zeros += np.count_nonzero(~mask)
                    else:
                        assert before.tobytes() == after.tobytes()
                        assert pruned.record(name).encoding == "dense"
                assert zeros == report.zeros
                assert pruned.side_files() == dense.side_files()
                assert pruned.manifest.pruning == {
                    "method": "magnitude",
                    "sparsity": report.sparsity,
                    "calibration_sha256": None,
                    "pattern": "unstructured",
                }
                assert pruned.manifest.source == {"kind": "gossamer", "name": "dense", "sha256": dense.manifest.model_id}


def test_several_outputs_equal_single_runs(model, tmp_path):
    prune(model, {0.25: tmp_path / "a", 0.5: tmp_path / "b"}, method="magnitude")
    prune(model, {0.5: tmp_path / "c"}, method="magnitude")
    assert contents(tmp_path / "b") == contents(tmp_path / "c")


def test_magnitude_needs_no_calibration(model, tmp_path):
    (report,) = prune(model, {0.5: tmp_path / "out"}, method="magnitude")
    assert report.actual_sparsity == 0.5
    with ModelReader(report.directory) as pruned:
        assert pruned.manifest.pruning["calibration_sha256"] is None


def test_pruning_again_keeps_what_is_zero(model, tmp_path):
    prune(model, {0.5: tmp_path / "half"}, method="magnitude")
    (report,) = prune(tmp_path / "half", {0.25: tmp_path / "again"}, method="magnitude")
    assert report.actual_sparsity == 0.5


@pytest.mark.parametrize("failing_tensor", range(1, 9))
def test_an_interrupted_run_leaves_nothing_and_resumes_to_the_same_bytes(model, tmp_path, monkeypatch, failing_tensor):
    prune(model, {0.5: tmp_path / "whole"}, method="magnitude")
    calls = 0
    real = ModelWriter.has

    def stops(self, name):
        nonlocal calls
        calls += 1
        if calls == failing_tensor:
            raise KeyboardInterrupt
        return real(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(ModelWriter, "has", stops)
        with pytest.raises(KeyboardInterrupt):
            prune(model, {0.5: tmp_path / "out"}, method="magnitude")
    assert not (tmp_path / "out").exists()
    prune(model, {0.5: tmp_path / "out"}, method="magnitude")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "obs"}, "method must be one of auto, alps, sparsegpt, wanda, magnitude, not 'obs'"),
        ({"calibration": None}, "needs calibration text"),
        ({"outputs": {}}, "at least one sparsity"),
        ({"outputs": {1.0: "x"}}, "less than 1, not 1.0"),
        ({"outputs": {0.0: "x"}}, "greater than 0"),
        ({"outputs": {0.3: "x", 0.4: "x"}}, "a different directory"),
    ],
)
def test_wrong_arguments(model, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        prune(model, **({"outputs": {0.5: tmp_path / "out"}, "calibration": CALIBRATION} | arguments))


def test_an_existing_model_is_not_replaced_unasked(model, tmp_path):
    prune(model, {0.5: tmp_path / "out"}, method="magnitude")
    before = contents(tmp_path / "out")
    with pytest.raises(FileExistsError, match="--overwrite"):
        prune(model, {0.25: tmp_path / "out"}, method="magnitude")
    assert contents(tmp_path / "out") == before


class TestCalibrationSet:
    def files(self, tmp_path, **texts):
        paths = []
        for name, text in texts.items():
            paths.append(tmp_path / f"{name}.txt")
            paths[-1].write_text(text)
        return paths

    def test_files_are_groups_of_equal_shares_as_far_as_they_go(self, tmp_path):
        files = self.files(tmp_path, long="a " * 1000, short="b " * 40, other="c " * 1000)
        found = CalibrationSet.from_files(files, {"tokenizer.json": tiny_tokenizer()}, num_tokens=400, length=20)
        assert [len(group) for group in found.groups] == [7, 2, 7]
        assert [group[0][0] for group in found.groups] == [2, 3, 4]
        assert found.num_tokens == 320
        assert found.num_sequences == 16

    def test_a_text_shorter_than_a_window_is_taken_whole(self, tmp_path):
        files = self.files(tmp_path, short="a " * 18)
        found = CalibrationSet.from_files(files, {"tokenizer.json": tiny_tokenizer()}, num_tokens=400, length=64)
        assert [len(s) for s in found.groups[0]] == [18]

    def test_identity_sees_the_boundaries(self):
        same_tokens = [(((1, 2), (3,)),), (((1,), (2, 3)),), (((1, 2),), ((3,),)), (((1,),), ((2, 3),))]
        assert len({CalibrationSet(groups).sha256 for groups in same_tokens}) == 4

    @pytest.mark.parametrize(
        ("side_files", "text", "message"),
        [({}, "a " * 99, "no tokenizer.json"), ({"tokenizer.json": tiny_tokenizer()}, "a a", "too short to calibrate")],
    )
    def test_errors(self, tmp_path, side_files, text, message):
        with pytest.raises(ValueError, match=message):
            CalibrationSet.from_files(self.files(tmp_path, text=text), side_files, num_tokens=100, length=20)

    def test_chat_turns_without_a_template(self, tmp_path):
        path = tmp_path / "chat.jsonl"
        path.write_text('{"messages": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]}\n' * 30)
        found = CalibrationSet.from_files([path], {"tokenizer.json": tiny_tokenizer()}, num_tokens=100, length=20)
        assert found.groups[0][0][:6] == (2, 3, 4, 2, 3, 4)
        path.write_text("[1]\n")
        with pytest.raises(ValueError, match="line 1 is not"):
            CalibrationSet.from_files([path], {"tokenizer.json": tiny_tokenizer()}, num_tokens=100, length=20)


@pytest.mark.parametrize("bos", [False, True])
def test_windows_do_not_overlap_and_begin_with_a_bos_only_if_the_tokenizer_adds_it(bos):
    found = windows(OurTokenizer(tiny_tokenizer(bos)), "a b c d e f g h i j", 4)
    assert found == ([[0, 2, 3, 4], [0, 5, 6, 7], [0, 8, 9, 10]] if bos else [[2, 3, 4, 5], [6, 7, 8, 9]])
