"""Incremental stop strings against a search in the full text."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.stop_strings import StopStringMatcher

TEXT = st.text(alphabet="abé<", max_size=40)
STOPS = st.lists(st.text(alphabet="abé<", min_size=1, max_size=5), max_size=6)


def search(text: str, stops: list[str]) -> tuple[int, str] | None:
    """End and stop string of the occurrence that ends first; the longest of several that end there."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return end, max(ending, key=len)
    return None


def pieces(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@given(TEXT, STOPS, st.lists(st.integers(min_value=0), max_size=8), st.booleans())
def test_equals_search_in_full_text(text: str, stops: list[str], cuts: list[int], include: bool) -> None:
    matcher = StopStringMatcher(stops, include)
    shown = ""
    for piece in pieces(text, cuts):
        shown += matcher.feed(piece)
        expected = search(text, stops)
        limit = len(text) if expected is None else expected[0] - (0 if include else len(expected[1]))
        assert text[:limit].startswith(shown), "shows text that a stop string takes back"
    shown += matcher.flush()
    expected = search(text, stops)
    if expected is None:
        assert matcher.matched is None
        assert shown == text
    else:
        end, stop = expected
        assert matcher.matched == stop
        assert shown == text[: end if include else end - len(stop)]
        if not include:
            assert all(other not in shown for other in stops)


@given(TEXT, STOPS)
def test_holds_back_only_what_may_become_a_stop(text: str, stops: list[str]) -> None:
    matcher = StopStringMatcher(stops)
    shown = matcher.feed(text)
    if matcher.matched is None:
        held = text[len(shown) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize(
    ("stops", "fed", "shown", "matched"),
    [
        (["END"], ["a E", "N", "D b"], "a ", "END"),
        (["ab", "abc"], ["xabc"], "x", "ab"),
        (["abc", "bc"], ["xabcd"], "x", "abc"),
        (["aab"], ["aaab"], "a", "aab"),
        (["\n\n"], ["one\n", "two\n", "\nthree"], "one\ntwo", "\n\n"),
        (["é"], ["café"], "caf", "é"),
        (["x"], ["x"], "", "x"),
        (["never"], ["nev", "er", "more"], "", "never"),
        (["never"], ["nev", "e"], "neve", None),
    ],
)
def test_cases(stops: list[str], fed: list[str], shown: str, matched: str | None) -> None:
    matcher = StopStringMatcher(stops)
    assert "".join(matcher.feed(piece) for piece in fed) + matcher.flush() == shown
    assert matcher.matched == matched


def test_text_before_min_tokens_is_not_part_of_a_match() -> None:
    matcher = StopStringMatcher(["ab"])
    assert matcher.feed("ab a", match=False) == "ab a"
    assert matcher.feed("b ") == "b "
    assert matcher.feed("ab") == ""
    assert matcher.matched == "ab"


def test_empty_stop_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty string"):
        StopStringMatcher(["a", ""])


def test_a_thousand_long_stops_cost_no_more_than_the_text() -> None:
    stops = ["a" * 200 + f"{i:04d}" for i in range(1000)]
    matcher = StopStringMatcher(stops)
    start = time.perf_counter()
    shown = "".join(matcher.feed("a" * 10) for _ in range(2000)) + matcher.flush()
    assert shown == "a" * 20000
    assert time.perf_counter() - start < 2.0
