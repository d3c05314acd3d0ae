"""What pruning did to a model, measured, as a page: Markdown and a plot."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gossamer import texts
from gossamer.bench.context import cpu_name
from gossamer.bench.fresh import measure_fresh
from gossamer.bench.measure import Row, Shape
from gossamer.bench.table import markdown
from gossamer.checkpoint import ModelReader
from gossamer.evaluate import WINDOW, Divergence, EvaluationText, TextScore, compare_layers, score_text
from gossamer.prune.layerwise import layer_of
from gossamer.prune.select import is_prunable
from gossamer.runtime import Runtime

__all__ = ["Measured", "Size", "measure_models", "write_report"]

Progress = Callable[[int, int], None]

_SPEED = Shape(batch=1, prompt_tokens=64, new_tokens=64)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    windows: int = 4  # of each evaluation text
    window: int = WINDOW  # tokens, or the model's context where that is less
    speed: Shape = _SPEED
    repeats: int = 3
    answer_tokens: int = 64


@dataclass(frozen=True)
class Measured:
    """One model of the report; `divergences` is None for the dense one, like `scores` one entry per text."""

    name: str
    method: str
    sparsity: float  # zeros ÷ weights of the pruned projections
    disk_bytes: int
    densities: Mapping[str, npt.NDArray[np.float64]]  # "attention" and "MLP" → [layers]
    scores: Mapping[str, TextScore]
    divergences: Mapping[str, Divergence] | None
    speed: Row
    answers: Sequence[str]


def write_report(
    directory: str | os.PathLike[str],
    dense: str | os.PathLike[str],
    pruned: Mapping[float, str | os.PathLike[str]],
    *,
    size: Size | None = None,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Measure the dense model and the pruned ones; write report.md and report.png and return the page's path.

    Parameters
    ----------
    pruned : sparsity → model directory
    progress : gets what is done and what there is to do

    Raises
    ------
    ImportError : matplotlib is not installed (before anything is measured).
    """
    from gossamer.prune.report_plot import draw

    out = Path(directory)
    out.mkdir(parents=True, exist_ok=True)
    found = measure_models(Path(dense), [Path(p) for _, p in sorted(pruned.items())], size or Size(), num_threads, progress)
    draw(found, out / "report.png")
    page = out / "report.md"
    page.write_text(render(found), encoding="utf-8")
    return page


def measure_models(
    dense: Path, pruned: Sequence[Path], size: Size, num_threads: int | None = None, progress: Progress | None = None
) -> list[Measured]:
    """The dense model first."""
    models = [dense, *pruned]
    done, total = 0, 3 * len(models) + len(texts.EVALUATION)

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    scores: dict[Path, dict[str, TextScore]] = {}
    answers: dict[Path, list[str]] = {}
    inputs: list[EvaluationText] = []
    for model in models:
        with Runtime(model, num_threads=num_threads, max_num_seqs=len(texts.PROMPTS)) as runtime:
            window = min(size.window, runtime.info().max_model_len)
            inputs = [
                EvaluationText.from_file(file, runtime.tokenizer, window=window, max_windows=size.windows) for file in texts.EVALUATION
            ]
            scores[model] = {text.name: score_text(runtime, text) for text in inputs}
            tick()
            answers[model] = _answers(runtime, size.answer_tokens)
        tick()
    divergences: dict[Path, dict[str, Divergence]] = {model: {} for model in pruned}
    for text in inputs:
        for model, found in zip(pruned, compare_layers(dense, pruned, text, num_threads=num_threads), strict=True):
            divergences[model][text.name] = found
        tick()
    result = []
    for model in models:
        speed = measure_fresh(model, size.speed, repeats=size.repeats, runtime_options={"num_threads": num_threads})
        result.append(_measured(model, scores[model], divergences.get(model), speed, answers[model]))
        tick()
    return result


def _answers(runtime: Runtime, max_tokens: int) -> list[str]:
    try:
        outputs = runtime.chat([[{"role": "user", "content": p}] for p in texts.PROMPTS], temperature=0.0, max_tokens=max_tokens)
    except ValueError:  # a model without a chat template continues the prompt
        outputs = runtime.generate(list(texts.PROMPTS), temperature=0.0, max_tokens=max_tokens)
    return [output.outputs[0].text.strip() for output in outputs]


def _measured(
    model: Path, scores: Mapping[str, TextScore], divergences: Mapping[str, Divergence] | None, speed: Row, answers: Sequence[str]
) -> Measured:
    kept: dict[str, dict[int, list[int]]] = {"attention": {}, "MLP": {}}
    with ModelReader(model) as reader:
        for name in reader.names():
            record = reader.record(name)
            if is_prunable(name, record.shape):
                counts = kept["attention" if ".self_attn." in name else "MLP"].setdefault(layer_of(name), [0, 0])
                counts[0] += record.nnz if record.nnz is not None else record.size
                counts[1] += record.size
        pruning = reader.manifest.pruning or {}
    everything = [counts for layers in kept.values() for counts in layers.values()]
    return Measured(
        name=model.name,
        method=str(pruning.get("method", "dense")),
        sparsity=1 - sum(c[0] for c in everything) / sum(c[1] for c in everything),
        disk_bytes=sum(file.stat().st_size for file in model.iterdir()),
        densities={part: np.array([c[0] / c[1] for _, c in sorted(layers.items())]) for part, layers in kept.items() if layers},
        scores=scores,
        divergences=divergences,
        speed=speed,
        answers=answers,
    )


def render(models: Sequence[Measured]) -> str:
    """The page."""
    dense, shape = models[0], models[0].speed
    windows = " and ".join(f"{len(score.losses)} windows of {name}" for name, score in dense.scores.items())
    lines = [
        f"# {dense.name}, pruned",
        "",
        f"Measured on {datetime.now(timezone.utc):%Y-%m-%d}, {cpu_name()}, {dense.speed.device}. Perplexity ± its standard error over "
        f"{windows}; KL is the divergence of the predictions from the dense model's, nats per token; decode is batch {shape.batch} after "
        f"{shape.prompt_tokens} tokens, ± the spread of {shape.repeats} runs.",
        "",
        markdown([_row(model) for model in models]),
        "",
        "![perplexity against sparsity; error and density of every layer](report.png)",
        "",
        "## Layers",
        "",
        "Error of the hidden states after the layer, ‖h − h̄‖ ÷ ‖h̄‖ with h̄ the dense model's, and the share of weights that are left.",
        "",
        markdown(_layer_rows(models[1:])),
        "",
        "## Answers",
    ]
    for index, prompt in enumerate(texts.PROMPTS):
        lines += ["", f"**{prompt}**", ""]
        answers = [{"model": _label(model), "answer": _cell(model.answers[index])} for model in models]
        lines.append(markdown(answers))
    return "\n".join(lines) + "\n"


def _label(model: Measured) -> str:
    return "dense" if model.divergences is None else f"{model.sparsity:.0%}"


def _cell(text: str) -> str:
    """Text of a model inside a table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")


def _row(model: Measured) -> dict[str, str]:
    row = {
        "model": model.name,
        "method": model.method,
        "sparsity": f"{model.sparsity:.1%}",
        "on disk, MB": f"{model.disk_bytes / 1e6:.1f}",
        "weights in memory, MB": f"{model.speed.weight_bytes / 1e6:.1f}",
        "decode, tokens/s": f"{model.speed.decode_tok_s:.1f} ± {model.speed.decode_tok_s_std:.1f}",
    }
    for name, score in model.scores.items():
        row[f"perplexity, {name}"] = f"{score.perplexity:.2f} ± {score.perplexity_se:.2f}"
        found = model.divergences[name] if model.divergences else None
        row[f"KL, {name}"] = f"{found.divergence:.4f} ± {found.divergence_se:.4f}" if found else ""
    return row


def _layer_rows(models: Sequence[Measured]) -> list[dict[str, str]]:
    rows = []
    for layer in range(len(next(iter(models[0].densities.values())))):
        row = {"layer": str(layer)}
        for model in models:
            assert model.divergences is not None
            error = np.mean([found.layer_errors[layer] for found in model.divergences.values()])
            row[f"{_label(model)}: error"] = f"{error:.3f}"
            for part, densities in model.densities.items():
                row[f"{_label(model)}: {part} left"] = f"{densities[layer]:.1%}"
        rows.append(row)
    return rows
