"""Make cuda/plan/cost_table_h100.cpp of a grid that spmm_bench measured.

python benchmarks/kernels/make_cost_table.py benchmarks/results/cost_h100.json > cuda/plan/cost_table_h100.cpp
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

# cuBLASLt's fp16 products of 27648 x 9216 with 1024 to 4096 tokens: 6.6e8 to 7.0e8 FLOP a microsecond on an H100 (docs/kernel-notes.md).
DENSE_FLOPS = 6.6e8
PATHS = {"bitmap": "bitmap", "tiled_csl": "tiled_csl", "two_four": "two_four"}


def curves(rows: list[dict]) -> dict[tuple[str, float, int], dict[tuple[int, int], float]]:
    """(path, sparsity, n) -> (m, k) -> microseconds."""
    found: dict = defaultdict(dict)
    for row in rows:
        shape, n = (row["m"], row["k"]), row["n"]
        if row["kernel"] in PATHS:
            found[PATHS[row["kernel"]], row["sparsity"], n][shape] = row["us"]
            found["dense", 0.0, n][shape] = row["us_cublas"]
        elif row["kernel"] == "bitmap expanded + cublaslt":
            found["expansion", row["sparsity"], 0][shape] = max(row["us"] - row["us_cublas"], 0.5)
    return found


def main() -> None:
    rows = json.loads(Path(sys.argv[1]).read_text())["rows"]
    found = curves(rows)
    ms = sorted({m for shapes in found.values() for m, _ in shapes})
    ks = sorted({k for shapes in found.values() for _, k in shapes})
    print("// Made by benchmarks/kernels/make_cost_table.py; do not edit.")
    print(f"// {rows[0]['device']}, CUDA {rows[0]['cuda']}, driver {rows[0]['driver']}, {rows[0]['date']}, commit {rows[0]['commit']}.")
    print("// clang-format off")
    print('#include "plan/cost_table.h"\n\nnamespace gossamer {\n')
    print("const CostTable& CostTable::h100() {")
    print(f"  static const CostTable table({{{', '.join(map(str, ms))}}}, {{{', '.join(map(str, ks))}}}, {DENSE_FLOPS:g}, {{")
    for (path, sparsity, n), shapes in sorted(found.items()):
        times = ", ".join(f"{shapes[m, k]:.2f}" for m in ms for k in ks)
        print(f"      {{ProductPath::{path}, {sparsity:g}, {n}, {{{times}}}}},")
    print("  });\n  return table;\n}\n\n}  // namespace gossamer")


if __name__ == "__main__":
    main()
