"""`gossamer eval`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

__all__ = ["command"]

EXAMPLES = """\b
Examples:
  gossamer eval models/smollm2
  gossamer eval models/smollm2 models/smollm2-40 models/smollm2-50
  gossamer eval models/smollm2 --text book.txt --windows 20 --json
  gossamer eval models/smollm2 models/smollm2-50 --kl

\b
The text is cut into windows that do not overlap and do not see each other; the first token of each is not predicted.
The error is the standard error over windows. With several models the others are compared with the first, window by
window, which is far more precise than comparing two perplexities.
"""


@click.command(epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="MODEL...")
@click.option(
    "--text",
    "files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="UTF-8 text to predict; may be repeated.  [default: built-in prose and technical prose]",
)
@click.option(
    "--window", type=click.IntRange(min=2), default=None, help="Tokens per window.  [default: 1024, or the model's context if less]"
)
@click.option("--windows", "max_windows", type=click.IntRange(min=1), default=None, help="Use only the first so many windows of each text.")
@click.option(
    "--kl", is_flag=True, help="Also the Kullback-Leibler divergence of each model's predictions from the first one's, nats per token."
)
@click.option("--num-threads", type=click.IntRange(min=1), default=None, help="Threads that run the model.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    models: tuple[Path, ...],
    files: tuple[Path, ...],
    window: int | None,
    max_windows: int | None,
    kl: bool,
    num_threads: int | None,
    as_json: bool,
) -> None:
    """Measure the perplexity of each MODEL on texts, with its standard error.

    A lower perplexity is better; differences smaller than about two standard errors mean nothing.
    """
    from gossamer import texts

    if kl and len(models) < 2:
        raise click.UsageError("--kl compares models with the first one; name at least two.")
    results = [_evaluate(model, files or texts.EVALUATION, window, max_windows, num_threads) for model in models]
    _compare_with_first(results)
    if kl:
        _add_divergences(models, files or texts.EVALUATION, results, max_windows, num_threads)
    for result in results:
        for entry in result["texts"]:
            del entry["losses"]
    if as_json:
        click.echo(json.dumps({"models": results}, indent=2))
    else:
        _print_table(results)


def _evaluate(model: Path, files: tuple[Path, ...], window: int | None, max_windows: int | None, num_threads: int | None) -> dict[str, Any]:
    from gossamer.evaluate import WINDOW, EvaluationText, score_text
    from gossamer.runtime import Runtime

    with Runtime(model, num_threads=num_threads, max_num_seqs=1) as runtime:
        info = runtime.info()
        length = window or min(WINDOW, info.max_model_len)
        result: dict[str, Any] = {
            "model": model.name,
            "model_id": info.model_id,
            "sparsity": info.sparsity,
            "device": info.device,
            "texts": [],
        }
        for file in files:
            text = EvaluationText.from_file(file, runtime.tokenizer, window=length, max_windows=max_windows)
            with tqdm(total=len(text.sequences), desc=f"{model.name}: {text.name}", unit="window", disable=None, leave=False) as bar:
                score = score_text(runtime, text, lambda done, bar=bar: bar.update(done - bar.n))  # type: ignore[misc]
            result["texts"].append(
                {
                    "text": text.name,
                    "text_sha256": text.sha256,
                    "window": length,
                    "num_windows": len(text.sequences),
                    "num_tokens": text.num_predicted,
                    "perplexity": score.perplexity,
                    "perplexity_se": _number(score.perplexity_se),
                    "loss": score.loss,
                    "loss_se": _number(score.loss_se),
                    "losses": score,
                }
            )
    return result


def _compare_with_first(results: list[dict[str, Any]]) -> None:
    from gossamer.evaluate import compare

    for result in results[1:]:
        for entry, base in zip(result["texts"], results[0]["texts"], strict=True):
            same = all(entry[key] == base[key] for key in ("text_sha256", "window", "num_windows"))
            if not same:  # another tokenizer cuts the text differently
                continue
            comparison = compare(entry["losses"], base["losses"])
            entry["against"] = results[0]["model"]
            entry["perplexity_ratio"] = comparison.perplexity_ratio
            entry["perplexity_ratio_se"] = _number(comparison.perplexity_ratio_se)
            entry["loss_difference"] = comparison.loss_difference
            entry["loss_difference_se"] = _number(comparison.loss_difference_se)


def _add_divergences(
    models: tuple[Path, ...], files: tuple[Path, ...], results: list[dict[str, Any]], max_windows: int | None, num_threads: int | None
) -> None:
    """Give every model but the first its divergence from the first, on every text."""
    from gossamer.checkpoint import ModelReader
    from gossamer.evaluate import EvaluationText, compare_layers
    from gossamer.tokenizer import Tokenizer

    with ModelReader(models[0]) as reader:
        tokenizer = Tokenizer(reader.side_files()["tokenizer.json"])
    for index, file in enumerate(files):
        text = EvaluationText.from_file(file, tokenizer, window=results[0]["texts"][index]["window"], max_windows=max_windows)
        with tqdm(total=1, desc=f"divergence: {text.name}", disable=None, leave=False) as bar:

            def progress(done: int, total: int, bar: Any = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            found = compare_layers(models[0], models[1:], text, num_threads=num_threads, progress=progress)
        for result, divergence in zip(results[1:], found, strict=True):
            result["texts"][index] |= {"kl": divergence.divergence, "kl_se": _number(divergence.divergence_se)}


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def _print_table(results: list[dict[str, Any]]) -> None:
    from gossamer.bench.table import markdown

    rows = []
    for result in results:
        for entry in result["texts"]:
            row = {
                "model": result["model"],
                "sparsity": f"{result['sparsity']:.0%}",
                "text": entry["text"],
                "windows": f"{entry['num_windows']} × {entry['window']}",
                "perplexity": _with_error(entry["perplexity"], entry["perplexity_se"], 2),
            }
            if len(results) > 1:
                ratio = entry.get("perplexity_ratio")
                row[f"÷ {results[0]['model']}"] = "" if ratio is None else _with_error(ratio, entry["perplexity_ratio_se"], 3)
                if "kl" in results[-1]["texts"][0]:
                    row[f"KL from {results[0]['model']}"] = _with_error(entry["kl"], entry["kl_se"], 4) if "kl" in entry else ""
            rows.append(row)
    click.echo(markdown(rows))


def _with_error(value: float, error: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" if error is None else f"{value:.{digits}f} ± {error:.{digits}f}"
