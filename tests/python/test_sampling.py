"""The sampler against numpy: what may be drawn, how often, and what is reported."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer import _core

testing = _core.testing
BACKENDS = ["reference", "cpu"]


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def draw(logits, rows, backend="cpu", adjustments=(), max_logprobs=0):
    return testing.sample(np.ascontiguousarray(logits, np.float32), rows, list(adjustments), backend, max_logprobs)


def random_logits(seed, rows, vocab, scale=3.0):
    return (np.random.default_rng(seed).standard_normal((rows, vocab)) * scale).astype(np.float32)


def allowed(logits, row):
    """Ids that the filters leave, and ids close enough to a filter's edge that rounding may decide."""
    probabilities = np.exp(log_softmax(logits.astype(np.float64) / row.get("temperature", 1.0)))
    order = np.argsort(-probabilities, kind="stable")
    keep = np.ones(len(logits), bool)
    if row.get("top_k", 0) > 0:
        keep[order[row["top_k"] :]] = False
    kept = np.where(keep, probabilities, 0) / probabilities[keep].sum()
    before = np.cumsum(kept[order]) - kept[order]
    keep[order[before > row.get("top_p", 1.0) + 1e-5]] = False
    keep &= probabilities >= row.get("min_p", 0.0) * probabilities.max() * (1 - 1e-5)
    return keep


rows_strategy = st.fixed_dictionaries(
    {"seed": st.integers(0, 2**64 - 1), "position": st.integers(0, 2**32 - 1), "temperature": st.floats(0.1, 3.0)},
    optional={"top_k": st.integers(1, 40), "top_p": st.floats(0.05, 1.0), "min_p": st.floats(0.0, 0.5)},
)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), vocab=st.integers(1, 300), rows=st.lists(rows_strategy, min_size=1, max_size=4))
def test_only_what_the_filters_leave_is_drawn(seed, vocab, rows):
    logits = random_logits(seed, len(rows), vocab)
    results = [draw(logits, rows, backend) for backend in BACKENDS]
    assert results[0][0] == results[1][0], "backends differ"
    for i, token in enumerate(results[0][0]):
        assert allowed(logits[i], rows[i])[token]


@settings(deadline=None)
@given(seed=st.integers(0, 1000), rows=st.lists(rows_strategy, min_size=2, max_size=5))
def test_a_row_does_not_depend_on_its_company(seed, rows):
    logits = random_logits(seed, len(rows), 97)
    together = draw(logits, rows)[0]
    assert together == [draw(logits[i : i + 1], [row])[0][0] for i, row in enumerate(rows)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_follow_the_probabilities(backend):
    """A chi-square of 3000 draws; the 99.9999 % point of 7 degrees of freedom is 41."""
    logits = random_logits(3, 1, 8, scale=1.0)
    tokens = [draw(logits, [{"seed": 5, "position": i}], backend)[0][0] for i in range(3000)]
    expected = 3000 * np.exp(log_softmax(logits[0]))
    found = np.bincount(tokens, minlength=8)
    assert ((found - expected) ** 2 / expected).sum() < 41


@pytest.mark.parametrize("backend", BACKENDS)
def test_greedy_takes_the_smallest_of_equals(backend):
    logits = np.array([[1, 5, 5, 2], [0, 0, 0, 0], [-np.inf, -np.inf, 1, -np.inf]], np.float32)
    assert draw(logits, [{"temperature": 0}] * 3, backend)[0] == [1, 0, 2]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_marked(backend, bad):
    logits = random_logits(1, 3, 20)
    healthy = draw(logits, [{"seed": 1}] * 3, backend)[0]
    logits[1, 7] = bad
    tokens = draw(logits, [{"seed": 1}] * 3, backend)[0]
    assert tokens == [healthy[0], -1, healthy[2]]
    assert draw(np.full((1, 4), -np.inf), [{"temperature": 0}], backend)[0] == [-1]


@settings(deadline=None)
@given(seed=st.integers(0, 1000), vocab=st.integers(5, 200), wanted=st.integers(0, 5), target=st.integers(0, 4))
def test_logprobs_are_those_of_the_raw_logits(seed, vocab, wanted, target):
    logits = random_logits(seed, 2, vocab)
    rows = [{"seed": seed, "temperature": 2.0, "top_k": 3, "num_logprobs": wanted}, {"target": target, "num_logprobs": 0}]
    for backend in BACKENDS:
        tokens, logprobs, ranks, top_tokens, top_logprobs = draw(logits, rows, backend, max_logprobs=5)
        assert tokens[1] == target
        for i in range(2):
            expected = log_softmax(logits[i])
            np.testing.assert_allclose(logprobs[i], expected[tokens[i]], atol=2e-5)
            assert ranks[i] == 1 + np.count_nonzero(logits[i] > logits[i][tokens[i]])
        order = np.argsort(-logits[0], kind="stable")[:wanted]
        assert top_tokens[:wanted] == order.tolist()
        np.testing.assert_allclose(top_logprobs[:wanted], log_softmax(logits[0])[order], atol=2e-5)
        assert top_tokens[wanted:5] == [-1] * (5 - wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_penalties_and_bias(backend):
    logits = np.array([[4.0, 3.9, -1.0, 0.0]], np.float32)

    def greedy(adjustment, **row):
        return draw(logits, [{"temperature": 0, **row}], backend, [adjustment])[0][0]

    assert greedy((0, 0, 0, True, 0.0), repetition_penalty=1.5) == 1
    assert greedy((0, 0, 0, False, 0.0), repetition_penalty=1.5) == 0
    assert greedy((0, 0, 1, True, 0.0), presence_penalty=0.2) == 1
    assert greedy((0, 0, 0, True, 0.0), presence_penalty=0.2) == 0
    assert greedy((0, 0, 3, True, 0.0), frequency_penalty=0.05) == 1
    assert greedy((0, 0, 1, True, 0.0), frequency_penalty=0.05) == 0
    assert greedy((0, 3, 0, False, 5.0)) == 3
    assert greedy((0, 0, 0, False, float("-inf"))) == 1


def test_philox_is_uniform_and_has_no_short_period():
    values = np.array(
        [testing.philox_uniform(seed, sample, position) for seed in range(10) for sample in range(10) for position in range(40)]
    )
    assert len(np.unique(values)) == len(values)
    assert values.min() > 0
    assert values.max() < 1
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 60  # chi-square, 19 degrees of freedom
