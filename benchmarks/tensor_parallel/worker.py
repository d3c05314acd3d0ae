"""What the ranks run: `worker.py JOB`, JOB as JSON. Rank 0 writes a JSON object a line.

{"kind": "speed", "config": ..., "sparsity": 0.6, "shapes": [[batch, prompt, new], ...], "repeats": 2, "options": {...}, "profile": false}
{"kind": "tokens", "models": [directories], "prompts": [[...]], "options": {...}}    (under mpirun, one model)
{"kind": "stay", "config": ..., "phase": "load" | "prefill" | "decode" | "idle", "options": {...}}
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from launch import gpu_memory_mib

from gossamer import Runtime, SamplingParams
from gossamer.bench.measure import Shape, measure

GREEDY = {"temperature": 0.0, "ignore_eos": True}


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def speed(job: dict[str, Any]) -> None:
    shapes = [Shape(*shape) for shape in job["shapes"]]
    options: dict[str, Any] = {
        "max_model_len": max(shape.prompt_tokens + shape.new_tokens for shape in shapes),
        "max_num_seqs": max(shape.batch for shape in shapes),
    }
    start = time.perf_counter()
    with Runtime(job["config"], weights="random", sparsity=job["sparsity"], device=job["device"], **(options | job["options"])) as runtime:
        load_s = time.perf_counter() - start
        info = runtime.info()
        for shape in shapes:
            timings = [measure(runtime, shape, repeat) for repeat in range(job["repeats"] + 1)][1:]
            say(
                batch=shape.batch,
                prompt_tokens=shape.prompt_tokens,
                new_tokens=shape.new_tokens,
                prefill_tok_s=[shape.batch * shape.prompt_tokens / timing.prefill_seconds for timing in timings],
                decode_tok_s=[timing.decode_tokens_per_second for timing in timings],
                weight_bytes=info.weight_bytes,
                kv_bytes_per_token=info.kv_bytes / (info.num_blocks * info.block_size),
                kv_tokens=info.num_blocks * info.block_size,
                preemptions=runtime.stats().preemptions,
                load_s=load_s,
                gpu_memory_mib=gpu_memory_mib(),
                device=info.device,
                dtype=info.activation_dtype,
            )
        if job.get("profile"):
            profile(runtime, shapes[0])


def profile(runtime: Runtime, shape: Shape) -> None:
    """Microseconds of a decode step by kind of kernel, on rank 0, as CUPTI counts them: waiting for others is in them."""
    try:
        import torch.profiler as profiler
    except ImportError:
        say(profile={}, why="the profiler is torch's, which is not installed")
        return
    steps = shape.new_tokens - 1
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as trace:
        measure(runtime, Shape(shape.batch, 1, shape.new_tokens))
    times: dict[str, float] = {}
    kernels: dict[str, float] = {}
    for event in trace.key_averages():
        micros = event.self_device_time_total / steps
        times[kind_of(event.key)] = times.get(kind_of(event.key), 0.0) + micros
        kernels[event.key[:80]] = micros
    top = dict(sorted(kernels.items(), key=lambda item: -item[1])[:12])
    say(profile=times, kernels=top, batch=shape.batch, steps=steps)


def kind_of(kernel: str) -> str:
    """products, attention, all-reduce, copies or small."""
    name = kernel.lower()
    for kind, words in {
        "all-reduce": ("all_reduce", "all_gather", "nccl"),
        "attention": ("attention",),
        "products": ("spmm", "gemm", "gemv", "dense_kernel", "nvjet", "cutlass", "expand"),
        "copies": ("memcpy", "memset"),
    }.items():
        if any(word in name for word in words):
            return kind
    return "small"


def tokens(job: dict[str, Any]) -> None:
    for model in job["models"]:
        with Runtime(model, device=job["device"], max_num_batched_tokens=64, **job["options"]) as runtime:
            outputs = runtime.generate(job["prompts"], SamplingParams(max_tokens=48, **GREEDY))
            say(
                model=Path(model).name,
                ranks=runtime.info().tensor_parallel_size,
                greedy=[output.outputs[0].token_ids for output in outputs],
                scores=[[float(x) for x in row] for row in runtime.score(job["prompts"])],
            )


def stay(job: dict[str, Any]) -> None:
    """Stay in a phase until a signal ends it."""
    phase = job["phase"]
    if phase == "load":
        say(phase="load")
    with Runtime(job["config"], weights="random", sparsity=0.6, device=job["device"], max_model_len=192, **job["options"]) as runtime:
        prompts = [[5] * 64] * 8
        while True:
            runtime.generate(prompts, SamplingParams(max_tokens=1 if phase == "prefill" else 128, **GREEDY))
            say(phase=phase)
            if phase == "idle":
                time.sleep(60)


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    {"speed": speed, "tokens": tokens, "stay": stay}[request["kind"]](request)
