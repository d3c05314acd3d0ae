"""Chat templates: what they render, and what an untrusted one cannot do."""

from __future__ import annotations

import json
import time

import pytest
import tiny_model as tiny

from gossamer import CheckpointError
from gossamer.chat_template import ChatTemplate

HELLO = [{"role": "user", "content": "héllo"}]


def render(source, messages=HELLO, **variables):
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}).render(messages, **variables)


def test_chatml():
    text = render(tiny.CHAT_TEMPLATE, [{"role": "system", "content": "Be brief."}, *HELLO])
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhéllo<|im_end|>\n<|im_start|>assistant\n"
    assert not render(tiny.CHAT_TEMPLATE, add_generation_prompt=False).endswith("assistant\n")


def test_agrees_with_hugging_face_spellings():
    source = (
        "{{ bos_token }}{%- for m in messages %}\n  {%- generation %}{{ m.content | trim }}{% endgeneration %}{{ eos_token }}"
        "{% if loop.last %}{% continue %}{% endif %}{%- endfor %}{{ messages | tojson }}{{ ['a', 'b'] | join(', ') }}"
        "{{ 'a\nb' | indent(2) }}{{ 'abc' | replace('b', 'x') }}{{ 'a,b'.split(',')[1] }}{{ 'x' ~ 1 }}{{ strftime_now('%Y') | length }}"
        "{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}{{ tools is none }}{{ extra }}"
    )
    expected = '<s>héllo</s>[{"role": "user", "content": "héllo"}]a, ba\n  baxcbx143TrueE'
    assert render(source, [{"role": "user", "content": " héllo "}], extra="E").replace('" héllo "', '"héllo"') == expected


def test_raise_exception_is_a_value_error():
    with pytest.raises(ValueError, match="refuses them: no such role"):
        render(tiny.CHAT_TEMPLATE, [{"role": "forbidden", "content": ""}])


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% for i in range(9) %}{{ f(n + 1) }}{% endfor %}{% endmacro %}{{ f(0) }}",
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(100) %}{% set ns.x = ns.x | replace('a', 'aaaa') %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{{ 'a' * 10**10 }}",
        "{{ [0] * 10**10 }}",
        "{{ 'a'.ljust(10**10) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '{:10000000000}'.format(1) }}",
        "{{ 'a\nb' | indent(10**10) }}",
        "{{ ('x' * 10**6).replace('x', 'y' * 10**6) }}",
        "{{ (['x' * 10**6] * 1000) | join('') }}",
        "{{ 2 ** 100000000 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ undefined.x }}",
        "{{ 1 / 0 }}",
    ],
)
def test_hostile_or_broken_templates_end_in_a_value_error(source):
    start = time.perf_counter()
    with pytest.raises(ValueError, match="the model's chat template failed"):
        render(source)
    assert time.perf_counter() - start < 15


@pytest.mark.parametrize("source", ["{% for", "{{ 'a' | center(10**10) }}", "{{ '%s' | format(1) }}", "x" * (2**20 + 1)])
def test_templates_refused_at_load(source):
    with pytest.raises(CheckpointError, match="chat template"):
        render(source)


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], ValueError),
        ("hello", TypeError),
        ({"role": "user", "content": "x"}, TypeError),
        ([{"content": "x"}], TypeError),
        ([{"role": "user"}], TypeError),
        ([{"role": 5, "content": "x"}], TypeError),
        (["hello"], TypeError),
        (None, TypeError),
    ],
)
def test_wrong_messages(messages, error):
    with pytest.raises(error, match="messages"):
        render(tiny.CHAT_TEMPLATE, messages)


def test_messages_are_not_changed_by_rendering():
    messages = [{"role": "user", "content": "x"}]
    render("{% for m in messages %}{{ m.content }}{% endfor %}", messages)
    assert messages == [{"role": "user", "content": "x"}]


def test_where_the_template_comes_from():
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D{{ bos_token }}"}]
    config = {"chat_template": named, "bos_token": {"content": "<b>"}}
    files = {"tokenizer_config.json": json.dumps(config).encode()}
    assert ChatTemplate.from_files(files).render(HELLO) == "D<b>"
    files["chat_template.jinja"] = b"J{{ bos_token }}{{ eos_token }}"
    files["special_tokens_map.json"] = b'{"eos_token": "<e>", "bos_token": "<x>"}'
    assert ChatTemplate.from_files(files).render(HELLO) == "J<b><e>"
    assert ChatTemplate.from_files({}) is None
    assert ChatTemplate.from_files({"tokenizer_config.json": b"{}"}) is None
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        ChatTemplate.from_files({"tokenizer_config.json": b"[]"})
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja"):
        ChatTemplate.from_files({"chat_template.jinja": b"\xff"})
