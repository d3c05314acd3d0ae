"""Every family, dense and pruned, against Hugging Face transformers, which loads our stored values through `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from gossamer import Runtime, SamplingParams
from gossamer.checkpoint.export import export_model
from gossamer.checkpoint.reader import ModelReader
from gossamer.convert import convert
from gossamer.prune import prune

pytestmark = pytest.mark.hf

TOLERANCE = 1e-4
TOP = 20


@pytest.fixture(scope="module")
def hugging_face() -> Any:
    """The module that loads and runs the other side."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import make_goldens

    return make_goldens


def prompts() -> list[list[int]]:
    """Of several lengths, so that the batch is ragged; shorter and longer than any window."""
    whole = tiny_models.prompt()
    return [whole, whole[:3], whole[5:12] + whole[:9]]


def pruned(model: Path, destination: Path) -> Path:
    prune(model, {0.5: destination}, method="magnitude")
    with ModelReader(destination) as reader:
        bitmaps = [name for name, record in reader.manifest.tensors.items() if record.encoding == "bitmap"]
    assert len(bitmaps) >= 3 * 6
    return destination


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("kind", ["dense", "pruned"])
@pytest.mark.parametrize("name", tiny_models.VARIANTS)
def test_parity(name: str, kind: str, device: str, hugging_face: Any, tmp_path: Path) -> None:
    convert(tiny_models.write(name, tmp_path / "source"), tmp_path / "model")
    model = tmp_path / "model" if kind == "dense" else pruned(tmp_path / "model", tmp_path / "pruned")
    export_model(model, tmp_path / "export")
    theirs = hugging_face.load(tmp_path / "export")
    params = SamplingParams(max_tokens=tiny_models.NEW_TOKENS, temperature=0, ignore_eos=True, prompt_logprobs=TOP)
    with Runtime(model, device=device, num_threads=2) as runtime:
        outputs = runtime.generate(prompts(), params)
        scores = runtime.score([out.prompt_token_ids + out.outputs[0].token_ids for out in outputs])
    for out, score in zip(outputs, scores, strict=True):
        tokens = out.outputs[0].token_ids
        sequence = out.prompt_token_ids + tokens
        expected = hugging_face.logprobs(theirs, sequence)
        # One pass over our own continuation is the greedy loop: the first token that differs shows at its own position.
        assert tokens == expected[len(sequence) - len(tokens) - 1 : -1].argmax(axis=1).tolist()
        assert out.prompt_logprobs is not None
        for position, found in enumerate(out.prompt_logprobs[1:]):
            assert found is not None
            assert len(found) >= TOP
            for token, entry in found.items():
                assert entry.logprob == pytest.approx(expected[position, token], abs=TOLERANCE), (position, token)
        np.testing.assert_allclose(score[1:], expected[np.arange(len(sequence) - 1), sequence[1:]], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", tiny_models.VARIANTS)
def test_what_transformers_saves_means_the_same(name: str, hugging_face: Any, tmp_path: Path) -> None:
    """save_pretrained writes every field in transformers' own spelling of today; the model must stay the one it was."""
    hugging_face.load(tiny_models.write(name, tmp_path / "source")).save_pretrained(tmp_path / "saved")
    scores = []
    for directory in ("source", "saved"):
        convert(tmp_path / directory, tmp_path / f"{directory}-model")
        with Runtime(tmp_path / f"{directory}-model", device="reference") as runtime:
            scores.append(runtime.score([tiny_models.prompt()])[0])
    np.testing.assert_array_equal(scores[0], scores[1])
