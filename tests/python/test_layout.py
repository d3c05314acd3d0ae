"""The one-way dependency order of the layers, read from the includes themselves."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.MULTILINE)

# What each layer may include besides itself: everything to its left.
SEES = {
    "core": set(),
    "sparse": {"core"},
    "ops": {"core", "sparse"},
    "cpu": {"core", "sparse", "ops"},
    "comm": {"core", "sparse", "ops"},
    "kv": {"core", "sparse", "ops"},
    "model": {"core", "sparse", "ops", "cpu", "comm", "kv"},
    "engine": {"core", "sparse", "ops", "cpu", "comm", "kv", "model"},
    "runtime": {"core", "sparse", "ops", "cpu", "comm", "kv", "model", "engine"},
    "cuda": {"core", "sparse", "ops", "comm"},
}
LAYERS = set(SEES) - {"runtime", "cuda"}


def sources(folder: str) -> list[Path]:
    return sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"})


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    if parts[0] == "cuda":
        return "cuda"
    return parts[1] if len(parts) > 2 else "runtime"


def violations(path: Path, text: str) -> list[str]:
    """Includes of `text`, taken to be the file `path`, that break the order."""
    layer, found = layer_of(path), []
    for bracket, name in INCLUDE.findall(text):
        target = name.split("/")[0]
        if bracket == "<":
            if layer != "cuda" and re.match(r"(cuda|cublas|nccl|nv|cooperative_groups|mma)\w*(\.h|/)", name):
                found.append(f"{path.relative_to(ROOT)}: CUDA header <{name}>")
        elif name.startswith(".."):
            found.append(f'{path.relative_to(ROOT)}: "{name}" climbs out of its folder')
        elif name == "runtime.h" and layer != "runtime":
            found.append(f"{path.relative_to(ROOT)}: includes the facade")
        elif target in LAYERS and "/" in name and target != layer and target not in SEES[layer]:
            found.append(f'{path.relative_to(ROOT)}: {layer} may not include "{name}"')
    return found


def test_includes_go_left_only():
    files = sources("cpp") + sources("cuda")
    assert len(files) > 20
    found = [v for path in files for v in violations(path, path.read_text())]
    assert not found, "\n".join(found)


def test_host_code_knows_no_cuda():
    pattern = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif)\b.*CUDA", re.MULTILINE)
    found = [str(p.relative_to(ROOT)) for p in sources("cpp") if pattern.search(p.read_text())]
    assert not found


def test_headers_are_guarded():
    headers = [p for p in sources("cpp") + sources("cuda") if p.suffix in {".h", ".cuh"}]
    assert not [str(p.relative_to(ROOT)) for p in headers if "#pragma once" not in p.read_text()]


@pytest.mark.parametrize("path", sources("examples/cpp"), ids=lambda p: p.name)
def test_examples_use_the_facade_only(path):
    ours = [name for bracket, name in INCLUDE.findall(path.read_text()) if bracket == '"']
    assert ours == ["runtime.h"]


@pytest.mark.parametrize("path", sources("python/bindings"), ids=lambda p: p.name)
def test_bindings_see_the_facade_core_and_sparse(path):
    own = {p.name for p in sources("python/bindings")}
    ours = [name for bracket, name in INCLUDE.findall(path.read_text()) if bracket == '"']
    # What `gossamer env` shows, the strict reader through which Python sees a model's small files, and what `prune` asks for a speed.
    allowed = {"runtime.h", "layer_stream.h", "ops/plugin.h", "engine/sampling_params.h", "cpu/cpu_ops.h", "model/checkpoint.h"} | own
    allowed.add("plan/cost_table.h")
    if path.name.startswith("testing_"):  # gossamer._core.testing shows parts of the core to property tests
        return
    assert not [n for n in ours if n not in allowed and n.split("/")[0] not in {"core", "sparse"}]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("cpp/core/x.h", '#include "sparse/sparse_weight.h"'),
        ("cpp/cpu/x.cpp", '#include "kv/kv_cache.h"'),
        ("cpp/model/x.cpp", '#include "engine/scheduler.h"'),
        ("cpp/engine/x.cpp", '#include "runtime.h"'),
        ("cpp/ops/x.cpp", "#include <cuda_runtime.h>"),
        ("cpp/ops/x.cpp", '#include "../engine/scheduler.h"'),
        ("cuda/x.cpp", '#include "model/model.h"'),
    ],
)
def test_the_check_can_fail(file, line):
    assert violations(ROOT / file, line)


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]
