"""Print geometric means of speed-ups over a dense product, and the weakest shape, per number of tokens, sparsity and arrangement.

python benchmarks/kernels/geometric_means.py [--over "cublaslt fp8"] rows.json [...]
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import geometric_mean


def arrangement(row: dict) -> str:
    """The kernel and its warps, without what depends on the shape."""
    warps = re.search(r"(\d+x\d+) warps", row["config"])
    told = [word for word in ("finished apart", "arithmetic", "x given packed") if word in row["config"]]
    return " ".join([row["kernel"], row["config"].split(",")[0], warps.group(1) if warps else "", *told]).strip()


def largest_error(kernel: str) -> float:
    """fp32 accumulation over the longest k here stays at 1e-5; rounding activations to 8 bits costs some 1e-2."""
    return 0.05 if kernel.endswith((" x fp8", " x int8")) else 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="+", type=Path)
    parser.add_argument("--over", help="a kernel of the rows whose time counts as 1; default: cuBLASLt in 16 bits")
    options = parser.parse_args()
    rows = [row for path in options.rows for row in json.loads(path.read_text())["rows"]]
    rival = {(row["m"], row["k"], row["n"]): row["us"] for row in rows if row["kernel"] == options.over}
    speedups: dict = defaultdict(dict)
    for row in rows:
        shape, point = (row["m"], row["k"]), (row["n"], row["sparsity"])
        speedup = row["speedup"] if options.over is None else rival[(*shape, row["n"])] / row["us"]
        best = speedups[(*point, "best")]
        best[shape] = max(best.get(shape, 0.0), speedup)
        speedups[(*point, arrangement(row))][shape] = speedup
        if not row["rel_error"] < largest_error(row["kernel"]):
            print(f"wrong: {row}")
    for (n, sparsity, name), by_shape in sorted(speedups.items()):
        weakest = min(by_shape, key=by_shape.__getitem__)
        print(
            f"n {n:5d}  {100 * sparsity:3.0f} %  x{geometric_mean(by_shape.values()):.2f}  over {len(by_shape)} shapes, "
            f"weakest x{by_shape[weakest]:.2f} at {weakest[0]}x{weakest[1]}  {name}"
        )


if __name__ == "__main__":
    main()
