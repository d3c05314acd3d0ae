"""`gossamer env`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import click

import gossamer

__all__ = ["command"]

LIBRARIES = ("numpy", "safetensors", "tokenizers", "jinja2", "ml_dtypes", "click", "tqdm", "gguf", "matplotlib", "torch", "transformers")
EXAMPLES = """\b
Examples:
  gossamer env
  gossamer env --json
"""


@click.command(epilog=EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show versions, the CPU's instruction sets, GPUs and libraries, for bug reports."""
    facts = environment()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        click.echo(f"{name + ':':<15}{', '.join(shown) if isinstance(shown, list) else shown}")


def environment() -> dict[str, Any]:
    """Return what is known about this installation and machine."""
    facts: dict[str, Any] = {"gossamer": gossamer.__version__}
    try:
        from gossamer import _core
    except ImportError as error:
        facts["core"] = f"does not load: {error}"
    else:
        facts["core"] = _core.version()
        facts["build"] = _core.build_id()
        facts["architectures"] = _core.supported_architectures()
        facts["instructions"] = _core.cpu_isas()
        facts["cores"] = _core.available_cores()
        facts["cuda"] = _cuda(_core)
    facts["cpu"] = _cpu_name()
    facts["memory"] = f"{_memory_bytes() / 2**30:.1f} GiB"
    facts["python"] = f"{platform.python_implementation()} {platform.python_version()}"
    facts["system"] = platform.platform()
    facts["libraries"] = {name: version for name in LIBRARIES if (version := _version(name))}
    return facts


def _cuda(core: Any) -> str | list[str]:
    try:
        probe = core.probe_backend("cuda")
    except gossamer.DeviceError as error:
        return f"not usable: {error}"
    versions = f"driver {_cuda_version(probe['driver_version'])}, runtime {_cuda_version(probe['runtime_version'])}"
    devices = [
        f"{device['name']} (sm_{device['capability'][0]}{device['capability'][1]}, {device['memory_bytes'] / 2**30:.0f} GiB)"
        for device in probe["devices"]
    ]
    return [versions, f"built for {probe['architectures']}", *(devices or ["no device"])]


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
