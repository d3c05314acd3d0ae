"""The committed stub of the extension module is what the module says of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_stub_is_fresh(tmp_path):
    pytest.importorskip("nanobind", reason="the stub generator comes with nanobind")
    fresh = tmp_path / "_core.pyi"
    pattern = ROOT / "python/bindings/stubs.pattern"
    command = [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "gossamer._core", "-p", str(pattern), "-o", str(fresh)]
    subprocess.run(command, check=True)
    committed = ROOT / "python/gossamer/_core.pyi"
    remedy = " ".join([*command[1:-1], str(committed.relative_to(ROOT))])
    assert fresh.read_text() == committed.read_text(), f"stale; from the repository's root, run: python {remedy}"
