"""Stop strings end requests wherever they fall: between tokens, inside one, across several, inside a character."""

from __future__ import annotations

import pytest
from conftest import wait_until_idle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gossamer import SamplingParams

PROMPT = "the cat"
LONG = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)


@pytest.fixture(scope="module")
def full(runtime):
    return runtime.generate(PROMPT, LONG)[0].outputs[0]


def stopped(runtime, stop, **changes):
    keywords = {"temperature": 0, "max_tokens": 64, "ignore_eos": True, "stop": stop, **changes}
    sample = runtime.generate(PROMPT, **keywords)[0].outputs[0]
    with runtime.stream(PROMPT, **keywords) as stream:
        text = "".join(chunk.text for chunk in stream)
    assert text == sample.text
    assert stream.output.outputs[0] == sample
    return sample


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_part_of_the_text_stops_it_at_its_first_occurrence(runtime, full, data):
    begin = data.draw(st.integers(0, len(full.text) - 1))
    stop = full.text[begin : begin + data.draw(st.integers(1, 6))]
    sample = stopped(runtime, stop)
    assert sample.text == full.text[: full.text.index(stop)]
    assert (sample.finish_reason, sample.stop_reason) == ("stop", stop)
    assert full.token_ids[: len(sample.token_ids)] == sample.token_ids
    detokenizer = runtime.tokenizer.detokenizer()
    assert stop not in "".join(detokenizer.push(token) for token in sample.token_ids[:-1]), "ran on after the stop string"
    including = stopped(runtime, stop, include_stop_str_in_output=True)
    assert including.text == sample.text + stop
    wait_until_idle(runtime)


def test_held_back_text_is_flushed_at_the_end(runtime, full):
    sample = stopped(runtime, [full.text[-2:] + "never", "neither"])
    assert sample.text == full.text
    assert (sample.finish_reason, sample.stop_reason) == ("length", None)


def test_the_first_of_several_wins(runtime, full):
    early, late = full.text[3:6], full.text[20:24]
    sample = stopped(runtime, [late, early])
    assert sample.stop_reason == early
    assert early not in sample.text


def test_a_stop_string_in_the_prompt_does_not_count(runtime, full):
    assert "the cat" not in full.text
    assert stopped(runtime, "the cat").text == full.text


def test_no_stop_before_min_tokens(runtime, full):
    stop = full.text[2]
    sample = stopped(runtime, stop, min_tokens=20)
    beyond = runtime.tokenizer.decode(full.token_ids[:20])
    assert sample.text.startswith(beyond)
    assert len(sample.token_ids) > 20


def test_each_sample_stops_by_itself(runtime):
    params = SamplingParams(n=4, seed=2, max_tokens=40, ignore_eos=True, stop=["a", "e", "o"])
    (output,) = runtime.generate(PROMPT, params)
    (free,) = runtime.generate(PROMPT, SamplingParams(n=4, seed=2, max_tokens=40, ignore_eos=True))
    assert len({len(sample.token_ids) for sample in output.outputs}) > 1
    for sample, unstopped in zip(output.outputs, free.outputs, strict=True):
        assert unstopped.text.startswith(sample.text)
        assert not set(sample.text) & set("aeo")
        assert sample.finish_reason == ("stop" if set(unstopped.text) & set("aeo") else "length")


def test_a_thousand_stop_strings(runtime, full):
    assert stopped(runtime, [f"no{i}such" for i in range(1000)]).text == full.text
