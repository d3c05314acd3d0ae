"""The small files of a model directory that Python reads: tokenizer, chat template, sampling defaults."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gossamer import _core
from gossamer.chat_template import ChatTemplate
from gossamer.checkpoint.strict_json import parse_object
from gossamer.errors import CheckpointError
from gossamer.sampling_params import SamplingParams
from gossamer.tokenizer import Tokenizer

__all__ = ["ModelFiles", "read_config"]

_NAMES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json")
_DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class ModelFiles:
    """What they hold; None where the model has no such file.

    `defaults` are the sampling parameters of generation_config.json.
    """

    model_id: str
    tokenizer: Tokenizer | None
    chat_template: ChatTemplate | None
    defaults: SamplingParams

    @classmethod
    def read(cls, path: str, allow_symlinks: bool) -> ModelFiles:
        """Read them through the core's checkpoint reader, which checks paths, types and digests."""
        checkpoint = _core.Checkpoint.open(path, "header", allow_symlinks)
        files = {name: contents for name in _NAMES if (contents := checkpoint.side_file(name))}
        tokenizer = Tokenizer(files["tokenizer.json"]) if "tokenizer.json" in files else None
        return cls(checkpoint.model_id, tokenizer, ChatTemplate.from_files(files), generation_defaults(files))

    @classmethod
    def none(cls) -> ModelFiles:
        """Those of a model of random weights: it has no files."""
        return cls("random", None, None, SamplingParams())


def read_config(model: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[str, str]:
    """Return the name and the JSON text of a model's configuration: a mapping, a JSON file, or a directory with a config.json."""
    if isinstance(model, Mapping):
        return "random", json.dumps(dict(model))
    path = Path(model)
    if path.is_dir():
        path = path / "config.json"
    try:
        return (path.parent.name if path.name == "config.json" else path.stem), path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"model must be a configuration with weights='random': {path.name} cannot be read: {error.strerror}") from error


def generation_defaults(files: Mapping[str, bytes]) -> SamplingParams:
    """Return the sampling parameters of generation_config.json, as vLLM takes them; ``"do_sample": false`` is temperature 0."""
    name = "generation_config.json"
    config = parse_object(files[name], name) if files.get(name) else {}
    values = {field: config[field] for field in _DEFAULTS if config.get(field) is not None}
    if config.get("do_sample") is False:
        values["temperature"] = 0.0
    defaults = SamplingParams()
    for field, value in values.items():
        try:
            defaults = replace(defaults, **{field: value})
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{name}: {error}", file=name, field=field) from error
    return defaults
