"""The Python examples run as their first lines say, and use the public package only."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "python").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path, tiny_model):
    source = path.read_text()
    assert f"python examples/python/{path.name}" in source
    assert set(re.findall(r"^(?:from|import) (gossamer[.\w]*)", source, re.MULTILINE)) == {"gossamer"}
    result = subprocess.run([sys.executable, path, tiny_model, "Why?"], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.strip()


def test_there_are_examples():
    assert EXAMPLES
