#!/usr/bin/env bash
# Builds Gossamer for this machine's GPU, tests it, and measures models end to end: the most important first, in about ten minutes on an H100.
#
#   benchmarks/end_to_end/gpu.sh OUT [PART...]     PART: build tests decode candidates parity stages opt prefill faults peers large load
#
# OUT gets e2e.json (rows as in benchmarks/results/e2e_h100.json), one log for each part and summary.txt. A part that fails, or that takes longer
# than its limit, stops no other. PYTHON names an interpreter with numpy, nanobind, click, tqdm, tokenizers, jinja2, safetensors, ml_dtypes and
# pytest; torch for stages, transformers too for peers. SITE, if set, is a folder with a built gossamer, and BUILD its build folder.
set -u
cd "$(dirname "$0")/../.."
root=$PWD
out=${1:?usage: gpu.sh OUT [PART...]}
shift
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-$([ -x .venv/bin/python ] && echo "$root/.venv/bin/python" || echo python3)}
site=${SITE:-$root/build/gpu/site}
build=${BUILD:-$root/build/gpu/cmake}
configs=benchmarks/configs
parts=${*:-build tests decode candidates parity stages opt prefill faults peers large load}
export PYTHONPATH="$site:$root/tests/golden:$root/tests/python${PYTHONPATH:+:$PYTHONPATH}"

say() { echo "$*" | tee -a "$out/summary.txt"; }
# part LIMIT COMMAND...: runs it with its output in $name.log
part() {
  local limit=$1 began=$SECONDS status
  shift
  timeout -k 5 "$limit" "$@" >>"$out/$name.log" 2>&1
  status=$?
  say "== $name: $(printf '%q ' "${@:1:6}")... status $status after $((SECONDS - began)) s (limit $limit)"
  return $status
}
gossamer() { "$python" -c 'from gossamer.cli import main; main()' "$@"; }
export -f gossamer
export python
# bench LIMIT ARGUMENTS...: `gossamer bench` with the rows added to e2e.json and the table in the summary
bench() {
  local limit=$1
  shift
  part "$limit" "$python" -c 'from gossamer.cli import main; main()' bench --device cuda --repeats 3 --results "$out/e2e.json" "$@"
  grep -E '^\|' "$out/$name.log" | tail -n 14 | tee -a "$out/summary.txt"
}

build_all() {
  cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGOSSAMER_BUILD_PYTHON=ON -DGOSSAMER_BUILD_TESTS="${TESTS:-ON}" \
    -DGOSSAMER_CUDA=ON -DGOSSAMER_CUDA_ARCHITECTURES="${ARCHS:-90a}" -DPython_EXECUTABLE="$(command -v "$python")" ${CMAKE_ARGS:-} || return
  cmake --build "$build" -j "$(nproc)" || return
  mkdir -p "$site" && cp -r python/gossamer "$site/" && cp "$build"/cpp/libgossamer*.so "$(find "$build" -name '_core*.so' | head -1)" "$site/gossamer/"
}

for name in $parts; do
  : >"$out/$name.log"
  case $name in
    build) began=$SECONDS; build_all >>"$out/build.log" 2>&1; say "== build: status $? after $((SECONDS - began)) s" ;;
    tests)
      part 90 "$build/tests/cpp/test_cuda_backend" --gtest_brief=1
      grep -E 'FAILED|PASSED|SKIPPED' "$out/tests.log" | tail -n 20 | tee -a "$out/summary.txt"
      part 60 "$build/tests/cpp/test_gpu" --gtest_brief=1
      ;;
    decode) bench 90 --config $configs/llama3-8b.json --sparsity 0,0.6 --batch 1,8,32 --tokens 64/128 ;;
    candidates)  # each alone: whether it should become the default
      for one in ahead head; do
        bench 60 --config $configs/llama3-8b.json --sparsity 0,0.6 --batch 1,8,32 --tokens 64/128 --candidates "$one"
      done
      ;;
    parity) part 150 "$python" -m pytest -q -p no:cacheprovider tests/python/test_gpu_parity.py -m 'gpu and not slow'; tail -n 3 "$out/parity.log" | tee -a "$out/summary.txt" ;;
    stages)
      for shape in "0,0.6 1,8,32 64/24" "0,0.6 1 2048/1" "0.6 8 8168/24"; do
        read -r sparsity batch tokens <<<"$shape"
        part 60 "$python" -c 'from gossamer.cli import main; main()' bench --device cuda --repeats 1 --config $configs/llama3-8b.json \
          --sparsity "$sparsity" --batch "$batch" --tokens "$tokens" --stages
      done
      ;;
    opt) bench 120 --config $configs/opt-30b.json --sparsity 0,0.6,0.8 --batch 8 --tokens 64/128 ;;
    prefill) bench 60 --config $configs/llama3-8b.json --sparsity 0,0.6 --batch 1 --tokens 2048/8 ;;
    faults) part 120 "$python" -m pytest -q -p no:cacheprovider tests/python/test_gpu_engine.py -m 'gpu and not slow'; tail -n 3 "$out/faults.log" | tee -a "$out/summary.txt" ;;
    peers) bench 300 --config $configs/llama3-8b.json --sparsity 0 --batch 1,8,32 --tokens 64/128 --peer 'transformers compiled' ;;
    large)
      bench 90 --config $configs/opt-66b.json --sparsity 0.8 --batch 16 --tokens 64/512
      bench 90 --config $configs/opt-66b.json --sparsity 0.6 --batch 8 --tokens 64/512
      bench 90 --config $configs/llama3-70b.json --sparsity 0.6 --batch 8 --tokens 64/512
      ;;
    load)
      for one in "" pack; do
        part 150 "$python" benchmarks/end_to_end/loading.py $configs/llama3-8b.json 0.6 "${SCRATCH:-/tmp}/gossamer-load" --device cuda \
          --candidates "$one" --results "$out/load-${one:-default}.json"
        tail -n 8 "$out/load.log" | tee -a "$out/summary.txt"
      done
      ;;
    *) say "== $name: no such part" ;;
  esac
done
say "== all after $SECONDS s"
