"""Print geometric means of speed-ups over cuBLASLt, and the weakest shape, per number of tokens, sparsity and arrangement.

python benchmarks/kernels/geometric_means.py rows.json [...]
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import geometric_mean


def arrangement(row: dict) -> str:
    """The kernel and its warps, without what depends on the shape."""
    warps = re.search(r"(\d+x\d+) warps", row["config"])
    apart = "finished apart" if "finished apart" in row["config"] else ""
    return " ".join([row["kernel"], row["config"].split(",")[0], warps.group(1) if warps else "", apart]).strip()


def main() -> None:
    rows = [row for path in sys.argv[1:] for row in json.loads(Path(path).read_text())["rows"]]
    speedups: dict = defaultdict(dict)
    for row in rows:
        shape, point = (row["m"], row["k"]), (row["n"], row["sparsity"])
        best = speedups[(*point, "best")]
        best[shape] = max(best.get(shape, 0.0), row["speedup"])
        speedups[(*point, arrangement(row))][shape] = row["speedup"]
        if not row["rel_error"] < 1e-4:  # fp32 accumulation over the longest k here stays at 1e-5
            print(f"wrong: {row}")
    for (n, sparsity, name), by_shape in sorted(speedups.items()):
        weakest = min(by_shape, key=by_shape.__getitem__)
        print(
            f"n {n:5d}  {100 * sparsity:3.0f} %  x{geometric_mean(by_shape.values()):.2f}  over {len(by_shape)} shapes, "
            f"weakest x{by_shape[weakest]:.2f} at {weakest[0]}x{weakest[1]}  {name}"
        )


if __name__ == "__main__":
    main()
