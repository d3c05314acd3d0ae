"""How fast a model loads: files to packed weights, digests included, against merely reading the files.

python benchmarks/end_to_end/loading.py benchmarks/configs/llama3-8b.json 0.6 /scratch/model --device cuda --results load.json

Writes a Llama of that shape (one layer's random weights, many times), unless the directory is there. `cold` is after the files were dropped
from the page cache, `warm` with them in it; GB/s are of the files' bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import gossamer
from gossamer import Runtime
from gossamer.bench.context import context
from gossamer.checkpoint import ModelWriter

CHUNK = 16 << 20


def write(directory: Path, config: dict[str, Any], sparsity: float) -> None:
    """A model directory of float16 weights whose layers are all the same."""
    random = np.random.default_rng(1)
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    kv = hidden // heads * kv_heads
    shapes = {"q": (hidden, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, hidden)}
    shapes = {f"self_attn.{name}_proj": shape for name, shape in shapes.items()}
    shapes |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}

    def matrix(rows: int, cols: int) -> np.ndarray:
        return (random.integers(1, 2**10, (rows, cols), np.uint16) | np.uint16(0x2400)).view(np.float16)

    layer = {name: (matrix(*shape), random.random(shape, np.float32) >= sparsity) for name, shape in shapes.items()}
    ones = np.ones(hidden, np.float16)
    source = {"kind": "huggingface", "name": "random", "sha256": "0" * 64}
    files = {"config.json": json.dumps(config).encode()}
    with ModelWriter(directory, side_files=files, source=source, producer=f"gossamer {gossamer.__version__}") as writer:
        writer.add_dense("model.embed_tokens.weight", matrix(vocab, hidden))
        for i in range(config["num_hidden_layers"]):
            for name, (values, mask) in layer.items():
                writer.add_bitmap(f"model.layers.{i}.{name}.weight", values, mask)
            for norm in ("input_layernorm", "post_attention_layernorm"):
                writer.add_dense(f"model.layers.{i}.{norm}.weight", ones)
        writer.add_dense("model.norm.weight", ones)
        if not config["tie_word_embeddings"]:
            writer.add_dense("lm_head.weight", matrix(vocab, hidden))
        writer.finish()


def drop(files: list[Path]) -> None:
    """Out of the page cache, as far as the kernel follows the advice."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def read(files: list[Path]) -> None:
    """All bytes, by all cores, into buffers that are used again."""

    def chunk(job: tuple[int, int, int]) -> None:
        descriptor, offset, size = job
        os.preadv(descriptor, [bytearray(size)], offset)

    descriptors = [os.open(path, os.O_RDONLY) for path in files]
    try:
        sizes = [os.fstat(descriptor).st_size for descriptor in descriptors]
        jobs = [(d, at, min(CHUNK, size - at)) for d, size in zip(descriptors, sizes, strict=True) for at in range(0, size, CHUNK)]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(chunk, jobs))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def seconds(action: Callable[[], None]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("sparsity", type=float)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--candidates", default="", help="code paths that are not the default, separated by commas")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    config = json.loads(given.config.read_text())
    if not given.directory.exists():
        print(f"writing took {seconds(lambda: write(given.directory, config, given.sparsity)):.1f} s", flush=True)
    files = sorted(given.directory.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in files)
    device, candidates = "", [name for name in given.candidates.split(",") if name]

    def load(verify: str = "full") -> None:
        nonlocal device
        sizes: dict[str, Any] = {"max_model_len": 256, "max_num_seqs": 1, "verify": verify, "candidates": candidates}
        with Runtime(given.directory, device=given.device, **sizes) as runtime:
            device = runtime.info().device

    load()  # the device's own start is not the files'
    rates: dict[str, float] = {}
    for name, action in {"read": lambda: read(files), "load": load, "load without digests": lambda: load("header")}.items():
        drop(files)
        rates[f"cold {name}"] = size / seconds(action) / 1e9
        rates[f"warm {name}"] = size / min(seconds(action) for _ in range(2)) / 1e9
    for name, rate in rates.items():
        print(f"{name:28}{rate:7.2f} GB/s", flush=True)
    print(f"cold load / cold read = {rates['cold load'] / rates['cold read']:.0%}; {size / 1e9:.2f} GB; {device}")
    if given.results:
        row = {"model": given.config.stem, "sparsity": given.sparsity, "bytes": size, "device": device, "candidates": given.candidates}
        row |= {f"{name.replace(' ', '_')}_gbps": rate for name, rate in rates.items()} | context()
        given.results.write_text(json.dumps({"rows": [row]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
