"""Chat messages to a prompt, by the model's own Jinja template, which is not trusted.

The template runs in Jinja's sandbox, which keeps it from the interpreter, and under a budget of steps, time and characters, which the
sandbox lacks: loops count their turns, and whatever can build a long string checks its length first.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser

from gossamer.checkpoint.strict_json import parse_object
from gossamer.errors import CheckpointError

__all__ = ["ChatTemplate", "Message"]

Message = Mapping[str, Any]  # {"role": "user", "content": "…"}

_MAX_TEMPLATE = 2**20  # characters
_MAX_STRING = 2**24  # characters of any string a template builds
_MAX_STEPS = 1_000_000  # turns of loops and calls of macros
_MAX_SECONDS = 10.0
_PADDING_FILTERS = ("batch", "center", "format", "slice", "urlize", "wordwrap", "xmlattr")  # no chat template needs them; each takes a size
_SIZED_METHODS = ("expandtabs", "format", "format_map", "translate")  # of str, likewise
_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


class ChatTemplate:
    """A compiled chat template.

    Parameters
    ----------
    source : str
        The Jinja text.
    special_tokens : mapping of str to str
        bos_token, eos_token and the like: variables of the template.

    Raises
    ------
    CheckpointError
        The template is too long or not Jinja.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        if len(source) > _MAX_TEMPLATE:
            raise CheckpointError(f"chat template: {len(source)} characters; at most {_MAX_TEMPLATE} are read", field="chat_template")
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise CheckpointError(f"chat template: not a Jinja template: {error}", field="chat_template") from error

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> ChatTemplate | None:
        """Find the template among a model's side files: chat_template.jinja, or `chat_template` in tokenizer_config.json."""
        config = _json_object(files, "tokenizer_config.json")
        source: Any = _text(files, "chat_template.jinja") or config.get("chat_template")
        if isinstance(source, list):  # several named ones
            named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
            source = named.get("default")
        if not isinstance(source, str) or not source:
            return None
        return cls(source, _special_tokens({**_json_object(files, "special_tokens_map.json"), **config}))

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """Return the prompt. `variables` are further ones that some templates know (`tools`, `enable_thinking`).

        Raises
        ------
        ValueError
            The template refuses the messages, fails, or exceeds its budget.
        """
        check_messages(messages)
        budget = _Budget()
        names = {"tools": None, "documents": None, **self._special_tokens, **variables}
        parts = []
        try:
            stream = self._template.generate(
                messages=[dict(message) for message in messages], add_generation_prompt=add_generation_prompt, _budget=budget, **names
            )
            for part in stream:
                budget.step(len(part))
                parts.append(part)
        except _RefusedError as error:
            raise ValueError(f"messages: the model's chat template refuses them: {error}") from error
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, jinja2.TemplateError) as error:
            raise ValueError(f"the model's chat template failed: {error}") from error
        return "".join(parts)


def check_messages(messages: Any) -> None:
    """Check the outer form of chat messages; their roles and order are the template's matter."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise TypeError('messages must be a list of {"role": …, "content": …}, not ' + type(messages).__name__)
    if not messages:
        raise ValueError("messages is empty; give at least one message")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise TypeError(f'messages[{i}] must be {{"role": "user", "content": "…"}} or the like')


class _RefusedError(Exception):
    """raise_exception() was called."""


class _Budget:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self._steps = _MAX_STEPS
        self._characters = _MAX_STRING
        self._deadline = time.monotonic() + _MAX_SECONDS

    def step(self, characters: int = 0) -> str:
        self._steps -= 1
        self._characters -= characters
        if self._steps < 0 or self._characters < 0 or time.monotonic() > self._deadline:
            raise SecurityError("it takes too many steps, too long, or gives too much text")
        return ""


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, with string sizes bounded and a budget step in every loop turn and macro call."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and _is_sequence(left) and _is_sequence(right):
            _check_size(len(left) + len(right))
        elif operator == "*" and (_is_sequence(left) or _is_sequence(right)):
            sequence, count = (left, right) if _is_sequence(left) else (right, left)
            _check_size(len(sequence) * (count if isinstance(count, int) else 0))
        elif operator == "**" and not (_is_small(left) and _is_small(right)):
            raise SecurityError("a power is too large")
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("%-formatting is not available")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return not (isinstance(obj, str) and attr in _SIZED_METHODS) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No str.format at all, in place of Jinja's own safe one."""

    def call(__self, __context: Any, __obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  # kwargs may hold self
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            name = getattr(__obj, "__name__", "")
            if name in _SIZED_METHODS:
                raise SecurityError(f"str.{name} is not available")
            longest = max((abs(a) if isinstance(a, int) else len(a) for a in args if isinstance(a, (int, str))), default=1)
            if name in ("center", "ljust", "rjust", "zfill"):
                _check_size(longest)
            elif name == "replace":
                _check_size(len(owner) + (owner.count(args[0]) * len(args[1]) if len(args) > 1 else 0))
            elif name == "join" and args:
                args = (_bounded_list(args[0], len(owner)), *args[1:])
        return super().call(__context, __obj, *args, **kwargs)

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        template = Parser(self, source, name, filename).parse()
        loops: tuple[type[Any], ...] = (jinja2.nodes.For, jinja2.nodes.Macro, jinja2.nodes.CallBlock)
        node: Any
        for node in template.find_all(loops):
            step = jinja2.nodes.Call(_name("_step"), [jinja2.nodes.Name("_budget", "load")], [], None, None)
            node.body.insert(0, jinja2.nodes.ExprStmt(step, lineno=node.lineno))
        _replace_concat(template)
        return template


class _Generation(jinja2.ext.Extension):
    """{% generation %} marks the assistant's turns for training; here it only passes its body through."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 types it

    def parse(self, parser: Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> _Environment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
    for name in _PADDING_FILTERS:
        environment.filters.pop(name, None)
    environment.filters["tojson"] = _to_json
    for name in ("indent", "replace", "join"):
        environment.filters[name] = _checked_filter(name, environment.filters[name])
    environment.globals.pop("lipsum", None)
    environment.globals.update(raise_exception=_refuse, strftime_now=_strftime_now, _step=_take_step, _concat=_concat)
    return environment


def _checked_filter(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    """Bound the text that a filter can build before it builds it; keeps the marks by which Jinja passes context or environment."""

    def checked(first: Any, *args: Any, **kwargs: Any) -> Any:
        marked = hasattr(inner, "jinja_pass_arg")
        value, rest = (args[0], args[1:]) if marked else (first, args)
        settings = [*rest, *kwargs.values()]
        factor = max([1, *(abs(a) if isinstance(a, int) else len(a) for a in settings if isinstance(a, (int, str)))])
        if name == "join":
            value = _bounded_list(value, factor)
            return inner(first, value, *rest, **kwargs) if marked else inner(value, *rest, **kwargs)
        text = str(value)
        places = text.count("\n") + 1 if name == "indent" else text.count(str(rest[0])) + 1 if rest else len(text)
        _check_size(len(text) + places * factor)
        return inner(first, *args, **kwargs)

    if hasattr(inner, "jinja_pass_arg"):
        checked.jinja_pass_arg = inner.jinja_pass_arg  # type: ignore[attr-defined]
    return checked


def _bounded_list(values: Any, separator_length: int) -> list[Any]:
    collected, size = [], 0
    for value in values:
        size += len(str(value)) + separator_length
        _check_size(size)
        collected.append(value)
    return collected


def _name(name: str) -> jinja2.nodes.Name:
    return jinja2.nodes.Name(name, "load")


def _replace_concat(node: jinja2.nodes.Node) -> None:
    """Turn every `a ~ b` into a call of _concat, which checks the size."""
    for field, value in list(node.iter_fields()):
        if isinstance(value, list):
            setattr(node, field, [_without_concat(item) for item in value])
        else:
            setattr(node, field, _without_concat(value))


def _without_concat(value: Any) -> Any:
    if not isinstance(value, jinja2.nodes.Node):
        return value
    _replace_concat(value)
    if isinstance(value, jinja2.nodes.Concat):
        return jinja2.nodes.Call(_name("_concat"), value.nodes, [], None, None, lineno=value.lineno)
    return value


def _concat(*parts: Any) -> str:
    strings = [str(part) for part in parts]
    _check_size(sum(map(len, strings)))
    return "".join(strings)


def _take_step(budget: _Budget) -> str:
    return budget.step()


def _refuse(message: str) -> None:
    raise _RefusedError(message)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(format)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """As Hugging Face's: no HTML escapes."""
    if isinstance(indent, int):
        _check_size(indent * 1024)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (str, list, tuple))


def _is_small(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1024)


def _check_size(size: int) -> None:
    if size > _MAX_STRING:
        raise SecurityError(f"a string would have more than {_MAX_STRING} characters")


def _text(files: Mapping[str, bytes], name: str) -> str:
    try:
        return files.get(name, b"").decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{name}: not UTF-8 at byte {error.start}", file=name, offset=error.start) from error


def _json_object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    return parse_object(files[name], name) if files.get(name) else {}


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Tokens are strings, or objects with a `content`."""
    tokens = {}
    for name in _TOKENS:
        token = config.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            tokens[name] = token
    return tokens
