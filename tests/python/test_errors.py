"""Every error of the contract, from the Python side: its class, its attributes, and a message that says what to do."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tiny_model as tiny
from conftest import wait_until_idle

import gossamer
from gossamer import CheckpointError, ChecksumError, QueueFullError, Runtime, SamplingParams, UnsafePathError, _core, errors


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("CheckpointError", ValueError),
        ("ChecksumError", CheckpointError),
        ("CheckpointVersionError", CheckpointError),
        ("UnsafePathError", CheckpointError),
        ("ContextLengthError", ValueError),
        ("OutOfMemoryError", MemoryError),
        ("DeviceError", RuntimeError),
        ("EngineDeadError", RuntimeError),
        ("QueueFullError", RuntimeError),
        ("NumericsError", RuntimeError),
    ],
)
def test_classes(name, base):
    assert issubclass(getattr(errors, name), base)
    assert getattr(gossamer, name) is getattr(errors, name)
    assert name in gossamer.__all__


def test_errors_pickle_with_their_attributes():
    error = pickle.loads(
        pickle.dumps(CheckpointError("m", file="f", tensor="t", offset=3, field="shape", expected="a", found="b", fix="c"))
    )
    assert str(error) == "m"
    assert vars(error) == {"file": "f", "tensor": "t", "offset": 3, "field": "shape", "expected": "a", "found": "b", "fix": "c"}


# Models that cannot be loaded


def test_a_plain_hugging_face_directory_is_told_the_command(tiny_huggingface):
    with pytest.raises(CheckpointError, match=rf"gossamer convert \S*{tiny_huggingface.name}"):
        Runtime(tiny_huggingface)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_wrong_paths(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises((CheckpointError, OSError), match=name):
        Runtime(tmp_path / name)


def test_an_empty_directory(tmp_path):
    with pytest.raises(CheckpointError):
        Runtime(tmp_path)


@pytest.mark.parametrize("path", [None, 5, b"model", ["model"]])
def test_wrong_types_of_path(path):
    with pytest.raises(TypeError):
        Runtime(path)


def copy_of(model, tmp_path):
    return shutil.copytree(model, tmp_path / "copy")


def test_a_flipped_byte_of_a_shard(tiny_model, tmp_path):
    model = copy_of(tiny_model, tmp_path)
    (shard,) = model.glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ChecksumError) as caught:
        Runtime(model)
    error = caught.value
    assert error.file == shard.name
    assert len(error.expected) >= 64
    assert error.expected != error.found
    assert str(tmp_path) not in str(error)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "generation_config.json"])
def test_a_changed_side_file(tiny_model, tmp_path, name):
    model = copy_of(tiny_model, tmp_path)
    (model / name).write_bytes((model / name).read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=name):
        Runtime(model)


def test_a_symbolic_link(tiny_model, tmp_path):
    model = copy_of(tiny_model, tmp_path)
    (model / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    (model / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UnsafePathError, match=r"tokenizer\.json"):
        Runtime(model)
    with Runtime(model, device="cpu", allow_symlinks=True) as runtime:
        assert runtime.tokenizer.vocab_size == tiny.vocab_size()


@pytest.mark.parametrize(
    ("generation", "field"),
    [({"temperature": -1}, "temperature"), ({"top_p": "high"}, "top_p"), ({"top_k": 1.5}, "top_k")],
)
def test_insane_sampling_defaults(tmp_path, generation, field):
    files = tiny.side_files() | {"generation_config.json": json.dumps(generation).encode()}
    with pytest.raises(CheckpointError, match=field) as caught:
        Runtime(tiny.write_model(tmp_path / "model", files))
    assert caught.value.file == "generation_config.json"


def test_sampling_defaults_of_the_model(tmp_path):
    generation = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.1, "do_sample": True, "eos_token_id": 2}
    files = tiny.side_files() | {"generation_config.json": json.dumps(generation).encode()}
    with Runtime(tiny.write_model(tmp_path / "model", files), device="cpu") as runtime:
        assert runtime.default_params == SamplingParams(temperature=0.7, top_k=40, top_p=0.9, repetition_penalty=1.1)
    files["generation_config.json"] = json.dumps(generation | {"do_sample": False}).encode()
    with Runtime(tiny.write_model(tmp_path / "greedy", files), device="cpu") as runtime:
        assert runtime.default_params.temperature == 0
        repeated = [runtime.generate("the", max_tokens=8)[0].outputs[0].token_ids for _ in range(2)]
        assert repeated[0] == repeated[1]


def test_a_model_without_tokenizer_and_template(tmp_path):
    files = {name: data for name, data in tiny.side_files().items() if not name.startswith("tokenizer")}
    with Runtime(tiny.write_model(tmp_path / "model", files), device="cpu") as runtime:
        (output,) = runtime.generate([1, 2, 3], max_tokens=4, ignore_eos=True, logprobs=1)
        assert len(output.outputs[0].token_ids) == 4
        assert output.outputs[0].text == ""
        with pytest.raises(ValueError, match=r"tokenizer\.json"):
            runtime.generate("text")
        with pytest.raises(ValueError, match="stop"):
            runtime.generate([1], stop="x")
        with pytest.raises(ValueError, match=r"tokenizer\.json"):
            _ = runtime.tokenizer
        with pytest.raises(ValueError, match="chat template"):
            runtime.chat([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("device", "tpu", (ValueError, RuntimeError)),
        ("device", 0, TypeError),
        ("dtype", "int3", ValueError),
        ("max_model_len", -1, ValueError),
        ("max_model_len", 10**9, ValueError),
        ("max_num_seqs", 0, ValueError),
        ("max_num_seqs", 1.5, TypeError),
        ("block_size", 0, ValueError),
        ("kv_cache_memory", -5, ValueError),
        ("kv_cache_memory", 1, (ValueError, MemoryError)),
        ("gpu_memory_utilization", 1.5, ValueError),
        ("gpu_memory_utilization", "half", TypeError),
        ("num_threads", -1, ValueError),
        ("num_threads", True, TypeError),
        ("seed", -1, ValueError),
        ("tensor_parallel_size", 7, (ValueError, RuntimeError)),
        ("verify", "none", ValueError),
        ("allow_symlinks", 1, TypeError),
    ],
)
def test_wrong_runtime_arguments(tiny_model, argument, value, error):
    with pytest.raises(error, match=argument.split("_")[-1] if argument == "tensor_parallel_size" else argument):
        Runtime(tiny_model, **{argument: value})


def test_unknown_runtime_argument(tiny_model):
    with pytest.raises(TypeError, match="num_gpus"):
        Runtime(tiny_model, num_gpus=1)  # type: ignore[call-arg]


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="has a GPU")
def test_no_gpu(tiny_model):
    with pytest.raises(errors.DeviceError, match="cuda"):
        Runtime(tiny_model, device="cuda")


# Requests that cannot run


@pytest.mark.parametrize(
    "prompts",
    [
        [],
        "",
        [""],
        [[]],
        ["x", ""],
        [[1], []],
        np.array([], np.int64),
        [[-1]],
        [tiny.vocab_size()],
        [2**31],
        [2**63],
        [2**200],
        np.array([-1]),
    ],
)
def test_prompts_with_wrong_values(runtime, prompts):
    with pytest.raises(ValueError, match="prompts"):
        runtime.generate(prompts)


@pytest.mark.parametrize(
    "prompts",
    [
        None,
        5,
        1.5,
        b"bytes",
        bytearray(b"x"),
        {"prompt": "x"},
        {"a"},
        (c for c in "x"),
        [1.0],
        [True],
        ["x", None],
        ["x", 1],
        [1, "x"],
        [[1, 2.0]],
        [[[1]]],
        [float("nan")],
        np.array([1.0]),
        np.array([[[1]]]),
        np.array(5),
        np.array([True]),
        np.array(["x"]),
    ],
    ids=repr,
)
def test_prompts_of_wrong_types(runtime, prompts):
    with pytest.raises(TypeError, match="prompts"):
        runtime.generate(prompts)


def test_a_single_prompt_is_wanted(runtime):
    with pytest.raises(TypeError, match="generate"):
        runtime.stream(["a", "b"])
    with pytest.raises(ValueError, match="prompt is an empty text"):
        runtime.stream("")


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((SamplingParams(),), {"max_tokens": 5}, TypeError, "not both: max_tokens"),
        ((SamplingParams(),), {"sampling_params": SamplingParams()}, TypeError, "two spellings"),
        (({"max_tokens": 5},), {}, TypeError, "SamplingParams"),
        ((5,), {}, TypeError, "SamplingParams"),
        (([SamplingParams()] * 2,), {}, ValueError, "2 entries for 1 prompts"),
        ((["greedy"],), {}, TypeError, "SamplingParams"),
        ((), {"max_tokenz": 5}, TypeError, "did you mean 'max_tokens'"),
        ((), {"temperature": -1}, ValueError, "temperature"),
        ((), {"stop_token_ids": [tiny.vocab_size()]}, ValueError, "stop.token.id"),
        ((), {"logit_bias": {tiny.vocab_size(): 1.0}}, ValueError, "logit_bias"),
        ((), {"logprobs": 10**6}, ValueError, "logprobs"),
    ],
)
def test_wrong_parameters(runtime, arguments, keywords, error, message):
    with pytest.raises(error, match=message):
        runtime.generate("x", *arguments, **keywords)


def test_one_bad_prompt_of_many_runs_nothing(runtime):
    steps = runtime.stats().steps
    with pytest.raises(ValueError, match=r"prompts\[2\]"):
        runtime.generate(["a", "b", ""])
    assert runtime.stats().steps == steps


def test_a_closed_runtime(tiny_model):
    runtime = Runtime(tiny_model, device="cpu")
    stream = runtime.stream("the")
    next(stream)
    runtime.close()
    runtime.close()
    for call in (
        lambda: runtime.generate("x"),
        lambda: runtime.stream("x"),
        lambda: runtime.astream("x"),
        lambda: runtime.chat([{"role": "user", "content": "x"}]),
        lambda: runtime.score("x"),
        lambda: runtime.calibrate("x"),
        lambda: runtime.stats(),
        lambda: runtime.__enter__(),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert runtime.info().vocab_size == tiny.vocab_size()
    assert "closed" in repr(runtime)
    with contextlib.suppress(ValueError):  # raised unless the engine was done before it was closed
        list(stream)
    stream.close()


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda f: f.__name__)
def test_a_runtime_is_not_copied(runtime, clone):
    with pytest.raises(TypeError, match="make one in each process"):
        clone(runtime)


def test_queue_full(tiny_model):
    options = _core.RuntimeOptions()
    options.device, options.max_num_seqs, options.max_queue = "cpu", 1, 1
    engine = _core.Engine(str(tiny_model), options)
    params = _core.SamplingParams()
    params.max_tokens, params.ignore_eos = 200, True
    ids = [engine.submit([1, 2], params), engine.submit([1, 2], params)]

    def fill():
        for _ in range(200):  # one of the two may just have ended
            ids.append(engine.submit([1, 2], params))

    with pytest.raises(QueueFullError, match="try again"):
        fill()
    for request in ids:
        engine.release(request)
    engine.release(ids[0])
    engine.release(10**6)
    engine.close()


def test_a_request_larger_than_the_pool_is_refused(tiny_model, runtime):
    info = runtime.info()
    with Runtime(tiny_model, device="cpu", kv_cache_memory=4 * info.kv_bytes // info.num_blocks) as small:
        assert small.info().num_blocks == 4
        with pytest.raises(ValueError, match="limit is 64 tokens"):
            small.generate([5] * 40, max_tokens=60)
        assert len(small.generate([5] * 40, max_tokens=20, ignore_eos=True)[0].outputs[0].token_ids) == 20


def test_logits_that_are_not_finite_fail_the_request_and_not_the_engine(tmp_path):
    """One row of the head overflows: requests that see it fail, and a bias cannot hide it."""
    tensors = tiny.weights()
    tensors["lm_head.weight"] = tensors["lm_head.weight"].copy()
    tensors["lm_head.weight"][7] = np.float32(3e38)
    with Runtime(tiny.write_model(tmp_path / "model", tensors=tensors), device="cpu") as runtime:
        for _ in range(2):
            with pytest.raises(errors.NumericsError, match="finite"):
                runtime.generate(["the cat", "the dog"], max_tokens=4)
        wait_until_idle(runtime)
        assert runtime.stats().requests_failed >= 2
        assert runtime.calibrate("the cat").num_tokens > 0


def test_out_of_memory_says_how_much_and_another_runtime_still_loads(tiny_model):
    body = """
        import resource, sys
        from gossamer import OutOfMemoryError, Runtime
        Runtime(sys.argv[1], device="cpu", num_threads=1).close()
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + 2**28
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            Runtime(sys.argv[1], device="cpu", num_threads=1, kv_cache_memory=2**40, max_num_seqs=4096)
        except OutOfMemoryError as error:
            assert error.wanted > 2**28, error.wanted
            assert error.pool, error
            print(error)
        with Runtime(sys.argv[1], device="cpu", num_threads=1) as runtime:
            assert runtime.generate("the cat")
    """
    command = [sys.executable, "-c", textwrap.dedent(body), tiny_model]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "kv_cache_memory" in result.stdout
