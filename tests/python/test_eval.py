"""Perplexity: arithmetic, windows, pairing, the command."""

import hashlib
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from test_prune_pipeline import tiny_tokenizer

from gossamer.cli import cli
from gossamer.cli import eval as eval_command
from gossamer.evaluate import EvaluationText, TextScore, compare, pooled, score_text
from gossamer.tokenizer import Tokenizer


class FakeRuntime:
    """Predicts token t with probability 1 / (t + shift), whatever came before."""

    def __init__(self, shift=2.0):
        self.shift = shift

    def score(self, sequences):
        out = []
        for sequence in sequences:
            logprobs = -np.log(np.array(sequence, np.float32) + np.float32(self.shift))
            logprobs[0] = 0
            out.append(logprobs)
        return out


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a b c d e f g h i j")
    return EvaluationText.from_file(path, Tokenizer(tiny_tokenizer()), window=3)


def test_the_text_knows_itself(text, tmp_path):
    assert text.sequences == ((2, 3, 4), (5, 6, 7), (8, 9, 10))
    assert text.num_predicted == 6
    assert text.sha256 == hashlib.sha256((tmp_path / "text.txt").read_bytes()).hexdigest()


def test_a_bos_is_the_token_that_is_not_predicted(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a b c d")
    text = EvaluationText.from_file(path, Tokenizer(tiny_tokenizer(bos=True)), window=3)
    assert text.sequences == ((0, 2, 3), (0, 4, 5))


def test_perplexity_is_that_of_the_predicted_tokens(text):
    seen = []
    score = score_text(FakeRuntime(), text, seen.append)
    expected = np.mean(np.log([5, 6, 8, 9, 11, 12]))
    assert score.loss == pytest.approx(expected, rel=1e-6)
    assert score.perplexity == pytest.approx(math.exp(expected), rel=1e-6)
    assert seen == [1, 2, 3]


def test_standard_error_by_hand():
    score = TextScore(np.array([1.0, 2.0, 3.0, 6.0]))
    deviation = math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + 0 + (6 - 3) ** 2) / 3)
    assert score.loss_se == pytest.approx(deviation / 2)
    assert score.perplexity_se == pytest.approx(math.exp(3) * deviation / 2)
    assert math.isnan(TextScore(np.array([1.0])).loss_se)


def test_pairing_cancels_the_windows_difficulty():
    difficulty = np.array([1.0, 2.0, 3.0, 4.0])
    comparison = compare(TextScore(difficulty + 0.5), TextScore(difficulty))
    assert comparison.loss_difference == pytest.approx(0.5)
    assert comparison.loss_difference_se == pytest.approx(0, abs=1e-12)
    assert comparison.perplexity_ratio == pytest.approx(math.exp(0.5))
    with pytest.raises(ValueError, match="same windows"):
        compare(TextScore(difficulty), TextScore(difficulty[:2]))


def test_pooled():
    assert pooled([TextScore(np.array([1.0])), TextScore(np.array([2.0, 3.0]))]).loss == 2.0


def test_a_short_text_is_an_error(tmp_path):
    (tmp_path / "short.txt").write_text("a b")
    with pytest.raises(ValueError, match=r"shorter than one window of 3 tokens.*--window"):
        EvaluationText.from_file(tmp_path / "short.txt", Tokenizer(tiny_tokenizer()), window=3)


@pytest.fixture
def two_models(monkeypatch, text, tmp_path):
    def evaluate(model, files, window, max_windows, num_threads):
        score = score_text(FakeRuntime(3.0 if model.name == "pruned" else 2.0), text)
        entry = {"text": text.name, "text_sha256": text.sha256, "window": 3, "num_windows": 3, "perplexity": score.perplexity}
        entry |= {"perplexity_se": score.perplexity_se, "losses": score}
        return {"model": model.name, "sparsity": 0.5 if model.name == "pruned" else 0.0, "texts": [entry]}

    monkeypatch.setattr(eval_command, "_evaluate", evaluate)
    for name in ("dense", "pruned"):
        (tmp_path / name).mkdir()
    return [str(tmp_path / name) for name in ("dense", "pruned")]


def test_json_output(two_models):
    result = CliRunner().invoke(cli, ["eval", *two_models, "--json"])
    assert result.exit_code == 0, result.output
    dense, pruned = json.loads(result.output)["models"]
    assert "perplexity_ratio" not in dense["texts"][0]
    expected = np.mean(np.log([6, 7, 9, 10, 12, 13])) - np.mean(np.log([5, 6, 8, 9, 11, 12]))
    assert pruned["texts"][0]["loss_difference"] == pytest.approx(expected, rel=1e-5)
    assert pruned["texts"][0]["loss_difference_se"] < pruned["texts"][0]["perplexity_se"]
    assert pruned["texts"][0]["against"] == "dense"


def test_table_output(two_models):
    result = CliRunner().invoke(cli, ["eval", *two_models])
    assert result.exit_code == 0, result.output
    header, _rule, dense, pruned = result.output.strip().splitlines()
    assert "÷ dense" in header
    assert "±" in dense
    assert "50%" in pruned
    assert len({len(line) for line in (header, dense, pruned)}) == 1
