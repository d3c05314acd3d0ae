"""What others make of the same shape: transformers with a static cache, compiled or not, on the same device.

Runs in a process of its own, as `python -m gossamer.bench.peers` with a job on stdin: the device is theirs alone, and torch is imported
only when asked for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gossamer.bench.measure import Shape

__all__ = ["PEERS", "PeerError", "measure_peer"]

PEERS = {"transformers compiled": True, "transformers eager": False}
_RUNS = 3


class PeerError(RuntimeError):
    """The peer is not installed, does not know the model, or does not fit the device."""


def measure_peer(peer: str, config: str | os.PathLike[str], shape: Shape, *, device: str, dtype: str, timeout: float = 600) -> float:
    """Return the decode speed, in tokens per second, of a model of this configuration with random weights.

    Parameters
    ----------
    peer : a key of `PEERS`
    config : a config.json
    device, dtype : torch's names, "cuda" and "float16"

    Raises
    ------
    PeerError
        With the last line of what it said.
    """
    job = {"compiled": PEERS[peer], "config": os.fspath(config), "shape": asdict(shape), "device": device, "dtype": dtype}
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__], input=json.dumps(job), capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise PeerError(f"{peer} took more than {timeout:.0f} s") from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise PeerError(f"{peer}: {reason[0]}")
    return float(json.loads(done.stdout.splitlines()[-1])["decode_tok_s"])


def _decode_speed(job: dict[str, Any]) -> float:
    """Greedy generation; the time of the first token is taken off by a run that ends with it."""
    import torch
    import transformers

    shape = Shape(**job["shape"])
    config = transformers.AutoConfig.for_model(**json.loads(Path(job["config"]).read_text(encoding="utf-8")))
    dtype = getattr(torch, job["dtype"])
    with torch.device(job["device"]):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    options: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    if job["compiled"]:
        options["cache_implementation"] = "static"
        model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
    prompts = torch.randint(0, config.vocab_size, (shape.batch, shape.prompt_tokens), device=job["device"])

    def seconds(new_tokens: int) -> float:
        if job["device"] == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.no_grad():
            out = model.generate(
                prompts, attention_mask=torch.ones_like(prompts), min_new_tokens=new_tokens, max_new_tokens=new_tokens, **options
            )
        if job["device"] == "cuda":
            torch.cuda.synchronize()
        if out.shape[1] != shape.prompt_tokens + new_tokens:
            raise RuntimeError(f"{out.shape[1] - shape.prompt_tokens} of {new_tokens} tokens came")
        return time.perf_counter() - begin

    for _ in range(2):  # compiles, then records
        seconds(shape.new_tokens)
        seconds(1)
    whole = min(seconds(shape.new_tokens) for _ in range(_RUNS))
    first = min(seconds(1) for _ in range(_RUNS))
    return shape.batch * (shape.new_tokens - 1) / (whole - first)


def main() -> None:
    json.dump({"decode_tok_s": _decode_speed(json.load(sys.stdin))}, sys.stdout)


if __name__ == "__main__":
    main()
