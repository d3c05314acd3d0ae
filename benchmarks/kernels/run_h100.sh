#!/usr/bin/env bash
# All that docs/kernel-notes.md says of the SpMM, measured again on one H100 (about 8 minutes after the build, on 16 host cores), or a part:
#
#   benchmarks/kernels/run_h100.sh BUILD OUT [PART...]
#
# BUILD: a build directory, made if it is not there. OUT: a folder for JSON and logs. Parts, in order of what a short session needs:
#   check     test_gpu, and the batch-invariant cases of test_cuda_backend
#   variants  arrangements of warps beside the one that the planner chooses (spmm_variants_h100.json)
#   table     the ten shapes, f16, with FP8 (spmm_h100.json), bf16 and cuSPARSE on three of them
#   cost      the grid of the cost table (cost_h100.json, cost_table_h100.cpp)
#   sanitize  compute-sanitizer's four tools on small cases
#   tune      `gossamer tune`, where the package is installed, against the shipped table
# Parts may run at once, each with a GPU of its own (CUDA_VISIBLE_DEVICES). A failed part does not stop the others; the exit status says so.
set -uo pipefail
cd "$(dirname "$0")/../.."
[ $# -ge 2 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2; }
build=$1 out=$2
shift 2
[ $# -gt 0 ] || set -- check variants table cost sanitize tune
mkdir -p "$out" || exit 2
bench="$build/benchmarks/kernels/spmm_bench"
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD 2>/dev/null || commit=$commit+
three=27648x9216,4096x4096,8192x8192
status=0

build() {
  cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DGOSSAMER_CUDA=ON -DGOSSAMER_CUDA_ARCHITECTURES=90a -DGOSSAMER_BUILD_TESTS=ON \
    -DGOSSAMER_BUILD_BENCHMARKS=ON >"$out/build.log" 2>&1 &&
    cmake --build "$build" -j --target spmm_bench test_gpu test_cuda_backend gossamer_cuda >>"$out/build.log" 2>&1
}

# measure NAME ARGUMENT...: rows of spmm_bench, into OUT/NAME.json
measure() {
  local name=$1
  shift
  "$bench" --commit "$commit" --out "$out/$name.json" "$@" | tee "$out/$name.log"
}

# merge NAME PART...: the rows of several files in one
merge() {
  python3 - "$out" "$@" <<'PY'
import json, pathlib, sys
out, name, *parts = sys.argv[1:]
rows = [row for part in parts for row in json.loads((pathlib.Path(out) / f"{part}.json").read_text())["rows"]]
text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
(pathlib.Path(out) / f"{name}.json").write_text('{"rows":[\n' + text + "\n]}\n")
bad = [row for row in rows if not row["rel_error"] < 1e-4]
sys.exit(f"{len(bad)} rows are wrong, such as {bad[0]}" if bad else 0)
PY
}

check() {
  "$build/tests/cpp/test_gpu" --gtest_brief=1 2>&1 | tee "$out/test_gpu.log" &&
    "$build/tests/cpp/test_cuda_backend" --gtest_brief=1 --gtest_filter='*BatchInvariant*' 2>&1 | tee "$out/test_batch_invariant.log"
}

variants() {
  measure spmm_variants_h100 --shapes 27648x9216,9216x9216,4096x4096,28672x4096,4096x14336 --n 1,8,16,32 --sparsity 0.5,0.6,0.8 \
    --warps auto,4x4,p4x4,1x32,1x16
}

table() {
  measure table_f16 --n 1,8,16,32,64,128 --fp8 1 &&
    measure table_bf16 --n 8,16 --dtype bf16 --shapes $three &&
    measure table_cusparse --n 8 --shapes 4096x4096 --cusparse 1 --formats bitmap &&
    merge spmm_h100 table_f16 table_bf16 table_cusparse || return 1
  if python3 -c 'import matplotlib' 2>/dev/null; then python3 benchmarks/kernels/plot_spmm.py "$out/spmm_h100.json" "$out/spmm_h100"; fi
}

cost() {
  local shapes="" m k
  for m in 1024 4096 12288 32768; do for k in 1024 4096 16384; do shapes=$shapes,${m}x$k; done; done
  measure cost_h100 --shapes "${shapes#,}" --n 8,16,32,64,128 --sparsity 0.4,0.6,0.7,0.8,0.95 \
    --formats bitmap,tiled_csl,two_four --csl-from 0.6 --two-four-from 0.6 &&
    python3 benchmarks/kernels/make_cost_table.py "$out/cost_h100.json" >"$out/cost_table_h100.cpp"
}

# Small cases of every variant and type: the case of problem p in spmm_test.cu's list of 19 is number 38 variant + 19 type + p.
sanitize() {
  local tool first p filter=""
  for first in 0 19 38 57 76 95; do
    for p in 1 3 12 15; do filter=$filter:*/$((first + p)); done
  done
  for tool in memcheck racecheck initcheck synccheck; do
    compute-sanitizer --tool $tool --error-exitcode 9 "$build/tests/cpp/test_gpu" --gtest_brief=1 --gtest_filter="${filter#:}" \
      >"$out/sanitize_$tool.log" 2>&1 || return 1
  done
}

tune() {
  command -v gossamer >/dev/null || { echo "gossamer is not installed: skipped"; return 0; }
  gossamer tune --output "$out/tuned.txt"
}

if [ ! -x "$bench" ]; then
  build || { tail -20 "$out/build.log"; exit 1; }
fi
for part in "$@"; do
  case $part in check | variants | table | cost | sanitize | tune) ;; *) echo "no part is called $part" >&2; exit 2 ;; esac
  begin=$SECONDS
  if "$part"; then result=passed; else result=FAILED status=1; fi
  echo "== $part $result after $((SECONDS - begin)) s" | tee -a "$out/summary.txt"
done
exit $status
