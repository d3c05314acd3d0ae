"""SamplingParams and the keywords that make one: every range, every alias, messages that name the field."""

from __future__ import annotations

import math
import pickle
import time

import numpy as np
import pytest

from gossamer import SamplingParams
from gossamer.arguments import sampling_params_from_keywords

DEFAULTS = SamplingParams()

OUT_OF_RANGE = [
    ("n", 0),
    ("n", -1),
    ("n", 10**18),
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", 10**400),
    ("top_k", -2),
    ("top_k", 2**31),
    ("top_p", 0.0),
    ("top_p", 1.0001),
    ("top_p", math.nan),
    ("min_p", -0.01),
    ("min_p", 1.01),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", math.inf),
    ("presence_penalty", 2.01),
    ("frequency_penalty", -2.01),
    ("seed", -1),
    ("seed", 2**64),
    ("max_tokens", 0),
    ("max_tokens", -1),
    ("max_tokens", 2**63),
    ("min_tokens", -1),
    ("min_tokens", 17),
    ("logprobs", -1),
    ("prompt_logprobs", 2**31),
    ("stop", ""),
    ("stop", ["a", ""]),
    ("stop", ["a"] * 1025),
    ("stop", ["a" * 70000]),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", [2**31]),
    ("logit_bias", {-1: 1.0}),
    ("logit_bias", {5: 101}),
    ("logit_bias", {5: math.nan}),
]
WRONG_TYPE = [
    ("n", True),
    ("n", 1.0),
    ("n", "1"),
    ("temperature", "hot"),
    ("temperature", True),
    ("temperature", None),
    ("top_k", 5.5),
    ("seed", 1.5),
    ("stop", 5),
    ("stop", [b"x"]),
    ("stop_token_ids", "12"),
    ("stop_token_ids", 12),
    ("stop_token_ids", [1.5]),
    ("logit_bias", [1, 2]),
    ("ignore_eos", 1),
    ("max_tokens", "all"),
    ("include_stop_str_in_output", "yes"),
]


@pytest.mark.parametrize(("field", "value"), OUT_OF_RANGE)
def test_out_of_range_names_the_field(field, value):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=field):
        SamplingParams(**{field: value})
    assert time.perf_counter() - start < 0.2


@pytest.mark.parametrize(("field", "value"), WRONG_TYPE)
def test_wrong_type_names_the_field(field, value):
    with pytest.raises(TypeError, match=field):
        SamplingParams(**{field: value})


def test_a_huge_integer_is_refused_without_being_printed():
    with pytest.raises(ValueError, match="bits") as caught:
        SamplingParams(max_tokens=10**10_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", -1),
        ("top_k", 0),
        ("top_p", 1),
        ("min_p", 1),
        ("temperature", 0),
        ("temperature", -0.0),
        ("seed", 2**64 - 1),
        ("max_tokens", None),
    ],
)
def test_edges_are_allowed(field, value):
    assert getattr(SamplingParams(**{field: value}), field) == value


def test_values_are_normalised():
    params = SamplingParams(n=np.int64(2), temperature=np.float32(0.5), stop="x", stop_token_ids=[np.int32(7)], logit_bias={np.int64(3): 1})
    assert type(params.n) is int
    assert type(params.temperature) is float
    assert params.stop == params.stop_strings == ("x",)
    assert params.stop_token_ids == (7,)
    assert params.logit_bias == {3: 1.0}
    assert math.copysign(1, SamplingParams(temperature=-0.0).temperature) == 1


def test_pickles():
    params = SamplingParams(n=2, stop=["a"], logit_bias={1: 2.0})
    assert pickle.loads(pickle.dumps(params)) == params


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({}, {}),
        ({"max_new_tokens": 5}, {"max_tokens": 5}),
        ({"min_new_tokens": 5}, {"min_tokens": 5}),
        ({"num_return_sequences": 3}, {"n": 3}),
        ({"stop_strings": ["a"]}, {"stop": ["a"]}),
        ({"do_sample": False}, {"temperature": 0}),
        ({"do_sample": False, "temperature": 0}, {"temperature": 0}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": 0.3}, {"temperature": 0.3}),
        ({"eos_token_id": 7}, {"stop_token_ids": [7], "ignore_eos": True}),
        ({"eos_token_id": [7, 8]}, {"stop_token_ids": [7, 8], "ignore_eos": True}),
        ({"eos_token_id": None}, {}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
    ],
)
def test_keywords(keywords, expected):
    assert sampling_params_from_keywords(DEFAULTS, keywords) == SamplingParams(**expected)


def test_keywords_change_only_what_they_name():
    defaults = SamplingParams(temperature=0.6, top_p=0.9, max_tokens=None)
    assert sampling_params_from_keywords(defaults, {"top_k": 4}) == SamplingParams(temperature=0.6, top_p=0.9, max_tokens=None, top_k=4)
    assert sampling_params_from_keywords(SamplingParams(temperature=0), {"do_sample": True}).temperature == 1


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"max_tokens": 1, "max_new_tokens": 1}, "'max_tokens' and 'max_new_tokens' are two spellings"),
        ({"n": 1, "num_return_sequences": 1}, "two spellings"),
        ({"stop": "a", "stop_strings": "a"}, "two spellings"),
        ({"max_token": 1}, "did you mean 'max_tokens'"),
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"max_length": 1}, "use max_new_tokens"),
        ({"num_beams": 4}, "beam search"),
        ({"zzzz": 1}, "unknown argument 'zzzz'"),
        ({"do_sample": "no"}, "do_sample must be True or False"),
        ({"eos_token_id": 1, "ignore_eos": False}, "contradict"),
        ({"eos_token_id": 1, "stop_token_ids": [2]}, "contradict"),
    ],
)
def test_keyword_errors(keywords, message):
    with pytest.raises(TypeError, match=message):
        sampling_params_from_keywords(DEFAULTS, keywords)


@pytest.mark.parametrize("keywords", [{"do_sample": False, "temperature": 0.5}, {"do_sample": True, "temperature": 0}])
def test_do_sample_contradicts_temperature(keywords):
    with pytest.raises(ValueError, match="do_sample"):
        sampling_params_from_keywords(DEFAULTS, keywords)
