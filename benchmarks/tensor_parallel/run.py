"""Tensor parallel on GPUs of one host: all-reduce, parity, speed and faults, into one JSON file; parts that are there already are kept.

python benchmarks/tensor_parallel/run.py two tp_h100.json --bench all_reduce_bench     # gpu.sh builds and finds what this needs
python benchmarks/tensor_parallel/run.py four tp_h100.json                             # the same on four GPUs, rows appended
python benchmarks/tensor_parallel/run.py tiny tiny.json --device cpu                   # tries the programs

Needs Open MPI's mpirun and NCCL (LD_LIBRARY_PATH, where it is not installed beside Gossamer). Every launch has a limit, and the whole
stops starting new ones before --limit seconds are over, so that what was measured is always written.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from faults import CASES, strike
from launch import Launcher
from plan import PLANS, Cell
from rows import compare, row_of, targets

from gossamer.bench.context import context

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
PROMPTS = [[(37 * i + 11) % 157 + 3 for i in range(24)], [(31 * i + 5) % 157 + 3 for i in range(7)], [9]]


class Run:
    def __init__(self, launcher: Launcher, gpus: int, results: Path, limit: float, directory: Path) -> None:
        self.launcher, self.gpus, self.results, self.directory = launcher, gpus, results, directory
        self.deadline = time.monotonic() + limit
        self.data: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
        self.common = {name: value for name, value in context().items() if name in ("commit", "command", "date")}

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def keep(self, part: str, keys: tuple[str, ...], row: dict[str, Any]) -> None:
        """Add a row, or replace the one with the same keys, and write the file."""
        row = row | self.common
        rows = [old for old in self.data.get(part, []) if any(old.get(key) != row.get(key) for key in keys)]
        self.data[part] = [*rows, row]
        self.results.write_text(json.dumps(self.data, indent=1) + "\n")
        click.echo(f"{part}: " + json.dumps({key: value for key, value in row.items() if key not in self.common}))

    def skip(self, what: str) -> None:
        self.keep("skipped", ("what",), {"what": what, "why": "no time left"})

    # All-reduce

    def all_reduce(self, bench: Path) -> None:
        for ranks in {2, self.gpus}:
            try:
                text = subprocess.run([bench, str(ranks)], capture_output=True, text=True, timeout=min(60, self.left()), check=True).stdout
            except (subprocess.SubprocessError, OSError) as error:
                self.keep(
                    "failures", ("what",), {"what": f"{bench.name} {ranks}", "error": f"{error} {getattr(error, 'stderr', '')}"[-800:]}
                )
                continue
            for row in json.loads(text):
                self.keep("all_reduce", ("ranks", "tokens", "hidden_size"), row)

    # Parity

    def parity(self, ranks: int, one_shot: tuple[str, ...]) -> None:
        """Tokens and log-probabilities of tiny models of every family, against one rank."""
        sys.path.insert(0, str(GOLDEN))
        import tiny_models

        from gossamer.convert import convert

        names = list(tiny_models.VARIANTS) if self.launcher.device != "cpu" else ["llama"]
        for name in names:
            if not (self.directory / name).exists():
                convert(tiny_models.write(name, self.directory / "sources" / name), self.directory / name)
        job = {"kind": "tokens", "prompts": PROMPTS, "options": {}}
        alone = self.launcher.run(job | {"models": [str(self.directory / name) for name in names]}, 1, 90, self.directory / "alone.txt")
        expected = {entry["model"]: entry for entry in alone if "model" in entry}
        modes: list[tuple[str, str, dict[str, Any]]] = [(name, "nccl", {}) for name in names]
        if self.launcher.device != "cpu":
            modes += [(name, "one-shot", {"all_reduce": "one-shot"}) for name in one_shot]
            modes += [(names[0], "eager", {"enforce_eager": True})]
        for name, mode, options in modes:
            if self.left() < 40:
                self.skip(f"parity {name} {mode} on {ranks}")
                continue
            one = job | {"models": [str(self.directory / name)], "options": options}
            found = self.launcher.run(one, ranks, 40, self.directory / "ranks.txt")
            row = {"model": name, "mode": mode, "ranks": ranks, **compare(expected.get(name), found[-1])}
            self.keep("parity", ("model", "mode", "ranks"), row)

    # Speed

    def speed(self, cells: list[Cell]) -> None:
        """Cells of one GPU run side by side, each on its own."""
        single = [cell for cell in cells if cell.gpus == 1]
        while single:
            group, single = single[: max(1, self.gpus)], single[max(1, self.gpus) :]
            if self.left() < max(cell.limit_s for cell in group) / 2:
                self.skip(f"{group}")
                continue
            started = [self.launcher.start(cell.job(), 1, self.directory / f"cell{i}.txt", gpu=i) for i, cell in enumerate(group)]
            for cell, process in zip(group, started, strict=True):
                self.keep_cell(cell, process.results(min(cell.limit_s, self.left())))
        for cell in [cell for cell in cells if cell.gpus > 1]:
            if self.left() < cell.limit_s / 2:
                self.skip(f"{cell}")
                continue
            self.keep_cell(cell, self.launcher.run(cell.job(), cell.gpus, min(cell.limit_s, self.left()), self.directory / "cell.txt"))
        for target in targets(self.data.get("rows", [])):
            self.keep("targets", ("what",), target)

    def keep_cell(self, cell: Cell, found: list[dict[str, Any]]) -> None:
        name = {"model": cell.model, "weights": "random", "sparsity": cell.sparsity, "gpus": cell.gpus, "all_reduce": cell.all_reduce}
        for entry in found:
            if "profile" in entry:
                self.keep("split", ("model", "sparsity", "gpus", "all_reduce", "batch"), name | {"us": entry.pop("profile")} | entry)
            elif "error" in entry:
                self.keep("failures", ("model", "sparsity", "gpus", "all_reduce"), name | entry)
            else:
                keys = ("model", "sparsity", "gpus", "all_reduce", "batch", "prompt_tokens", "new_tokens")
                self.keep("rows", keys, name | row_of(entry, cell))

    # Faults

    def faults(self, job: dict[str, Any], cases: list[Any]) -> None:
        for phase, rank, sig in cases:
            if self.left() < 30:
                self.skip(f"fault {phase} {rank} {sig.name}")
                continue
            self.keep("faults", ("phase", "rank", "signal"), strike(self.launcher, job, phase, rank, sig, self.directory))


@click.command()
@click.argument("plan", type=click.Choice(list(PLANS)))
@click.argument("results", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--bench", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="all_reduce_bench; none: no such part.")
@click.option("--mpirun", default="mpirun", show_default=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--limit", default=570, show_default=True, help="Seconds in all.")
@click.option("--parts", default="all_reduce,parity,speed,faults", show_default=True)
def main(plan: str, results: Path, bench: Path | None, mpirun: str, device: str, limit: float, parts: str) -> None:
    """Measure PLAN and write, or extend, RESULTS."""
    launcher = Launcher(mpirun, device)
    launcher.require()
    gpus = 4 if plan == "four" else 2
    wanted = parts.split(",")
    with tempfile.TemporaryDirectory() as directory:
        run = Run(launcher, gpus, results, limit, Path(directory))
        if "all_reduce" in wanted and bench is not None:
            run.all_reduce(bench)
        if "parity" in wanted:
            run.parity(gpus, ("llama", "opt", "qwen3"))
        if "speed" in wanted:
            run.speed(PLANS[plan]())
        if "faults" in wanted and plan != "four":
            job = Cell("tiny" if plan == "tiny" else "opt-30b", 0.6, 2, ()).job()
            run.faults(job, CASES[:2] if plan == "tiny" and len(wanted) > 1 else CASES)


if __name__ == "__main__":
    main()
