"""The C++ core of Gossamer. Private: use the gossamer package."""

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray


def version() -> str:
    """The version of the core."""

def supported_architectures() -> list[str]:
    """Names of the model architectures that can be loaded."""

def cpu_isas() -> list[str]:
    """Instruction sets with kernels that this CPU has, weakest first."""

def available_cores() -> int:
    """Cores this process may use (affinity and cgroup quota respected)."""

def build_id() -> str:
    """Version and digest of the build; a plugin's must be the same."""

def probe_backend(name: str) -> dict:
    """What a backend plugin ("cuda") finds; DeviceError when there is none."""

def tune_backend(name: str, device_index: int, progress: Callable[[str], None] | None = None) -> str:
    """
    Measures a backend's kernels on a device; the text of a cost table. progress(what) may raise to cancel.
    """

def take_log() -> list[tuple[int, str]]:
    """Log lines since the last call: (level of the logging module, message)."""

def wait_for_calls(timeout_ms: int) -> None:
    """Waits until no other thread is inside the core: for interpreter exit."""

class RuntimeOptions:
    def __init__(self) -> None: ...

    @property
    def device(self) -> str: ...

    @device.setter
    def device(self, arg: str, /) -> None: ...

    @property
    def dtype(self) -> str: ...

    @dtype.setter
    def dtype(self, arg: str, /) -> None: ...

    @property
    def max_model_len(self) -> int: ...

    @max_model_len.setter
    def max_model_len(self, arg: int, /) -> None: ...

    @property
    def max_num_seqs(self) -> int: ...

    @max_num_seqs.setter
    def max_num_seqs(self, arg: int, /) -> None: ...

    @property
    def max_num_batched_tokens(self) -> int: ...

    @max_num_batched_tokens.setter
    def max_num_batched_tokens(self, arg: int, /) -> None: ...

    @property
    def block_size(self) -> int: ...

    @block_size.setter
    def block_size(self, arg: int, /) -> None: ...

    @property
    def kv_cache_memory(self) -> int: ...

    @kv_cache_memory.setter
    def kv_cache_memory(self, arg: int, /) -> None: ...

    @property
    def gpu_memory_utilization(self) -> float: ...

    @gpu_memory_utilization.setter
    def gpu_memory_utilization(self, arg: float, /) -> None: ...

    @property
    def random_config(self) -> str: ...

    @random_config.setter
    def random_config(self, arg: str, /) -> None: ...

    @property
    def random_sparsity(self) -> float: ...

    @random_sparsity.setter
    def random_sparsity(self, arg: float, /) -> None: ...

    @property
    def random_values(self) -> str: ...

    @random_values.setter
    def random_values(self, arg: str, /) -> None: ...

    @property
    def eight_bit(self) -> str: ...

    @eight_bit.setter
    def eight_bit(self, arg: str, /) -> None: ...

    @property
    def enforce_eager(self) -> bool: ...

    @enforce_eager.setter
    def enforce_eager(self, arg: bool, /) -> None: ...

    @property
    def batch_invariant(self) -> bool: ...

    @batch_invariant.setter
    def batch_invariant(self, arg: bool, /) -> None: ...

    @property
    def cost_table(self) -> str: ...

    @cost_table.setter
    def cost_table(self, arg: str, /) -> None: ...

    @property
    def candidates(self) -> list[str]: ...

    @candidates.setter
    def candidates(self, arg: Sequence[str], /) -> None: ...

    @property
    def num_threads(self) -> int: ...

    @num_threads.setter
    def num_threads(self, arg: int, /) -> None: ...

    @property
    def isa(self) -> str: ...

    @isa.setter
    def isa(self, arg: str, /) -> None: ...

    @property
    def seed(self) -> int: ...

    @seed.setter
    def seed(self, arg: int, /) -> None: ...

    @property
    def tensor_parallel_size(self) -> int: ...

    @tensor_parallel_size.setter
    def tensor_parallel_size(self, arg: int, /) -> None: ...

    @property
    def all_reduce(self) -> str: ...

    @all_reduce.setter
    def all_reduce(self, arg: str, /) -> None: ...

    @property
    def watchdog_seconds(self) -> float: ...

    @watchdog_seconds.setter
    def watchdog_seconds(self, arg: float, /) -> None: ...

    @property
    def verify(self) -> str: ...

    @verify.setter
    def verify(self, arg: str, /) -> None: ...

    @property
    def allow_symlinks(self) -> bool: ...

    @allow_symlinks.setter
    def allow_symlinks(self, arg: bool, /) -> None: ...

    @property
    def max_queue(self) -> int: ...

    @max_queue.setter
    def max_queue(self, arg: int, /) -> None: ...

class SamplingParams:
    def __init__(self) -> None: ...

    @property
    def n(self) -> int: ...

    @n.setter
    def n(self, arg: int, /) -> None: ...

    @property
    def temperature(self) -> float: ...

    @temperature.setter
    def temperature(self, arg: float, /) -> None: ...

    @property
    def top_k(self) -> int: ...

    @top_k.setter
    def top_k(self, arg: int, /) -> None: ...

    @property
    def top_p(self) -> float: ...

    @top_p.setter
    def top_p(self, arg: float, /) -> None: ...

    @property
    def min_p(self) -> float: ...

    @min_p.setter
    def min_p(self, arg: float, /) -> None: ...

    @property
    def repetition_penalty(self) -> float: ...

    @repetition_penalty.setter
    def repetition_penalty(self, arg: float, /) -> None: ...

    @property
    def presence_penalty(self) -> float: ...

    @presence_penalty.setter
    def presence_penalty(self, arg: float, /) -> None: ...

    @property
    def frequency_penalty(self) -> float: ...

    @frequency_penalty.setter
    def frequency_penalty(self, arg: float, /) -> None: ...

    @property
    def seed(self) -> int | None: ...

    @seed.setter
    def seed(self, seed: int | None) -> None: ...

    @property
    def stop_token_ids(self) -> list[int]: ...

    @stop_token_ids.setter
    def stop_token_ids(self, arg: Sequence[int], /) -> None: ...

    @property
    def ignore_eos(self) -> bool: ...

    @ignore_eos.setter
    def ignore_eos(self, arg: bool, /) -> None: ...

    @property
    def max_tokens(self) -> int | None: ...

    @max_tokens.setter
    def max_tokens(self, max_tokens: int | None) -> None: ...

    @property
    def min_tokens(self) -> int: ...

    @min_tokens.setter
    def min_tokens(self, arg: int, /) -> None: ...

    @property
    def logprobs(self) -> int | None: ...

    @logprobs.setter
    def logprobs(self, logprobs: int | None) -> None: ...

    @property
    def prompt_logprobs(self) -> int | None: ...

    @prompt_logprobs.setter
    def prompt_logprobs(self, prompt_logprobs: int | None) -> None: ...

    @property
    def logit_bias(self) -> list[tuple[int, float]]: ...

    @logit_bias.setter
    def logit_bias(self, arg: Sequence[tuple[int, float]], /) -> None: ...

class TokenLogprob:
    @property
    def token(self) -> int: ...

    @property
    def logprob(self) -> float: ...

    @property
    def rank(self) -> int: ...

class SampleDelta:
    @property
    def sample(self) -> int: ...

    @property
    def tokens(self) -> list[int]: ...

    @property
    def logprobs(self) -> list[list[TokenLogprob]]: ...

    @property
    def finish_reason(self) -> str | None: ...

    @property
    def stop_token(self) -> int | None: ...

class RuntimeInfo:
    @property
    def model_path_name(self) -> str: ...

    @property
    def model_id(self) -> str: ...

    @property
    def architecture(self) -> str: ...

    @property
    def producer(self) -> str: ...

    @property
    def pruning_json(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def activation_dtype(self) -> str: ...

    @property
    def kv_dtype(self) -> str: ...

    @property
    def num_parameters(self) -> int: ...

    @property
    def weight_bytes(self) -> int: ...

    @property
    def table_bytes(self) -> int: ...

    @property
    def sparse_elements(self) -> int: ...

    @property
    def sparse_zeros(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def num_layers(self) -> int: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def max_model_len(self) -> int: ...

    @property
    def kv_bytes(self) -> int: ...

    @property
    def num_blocks(self) -> int: ...

    @property
    def block_size(self) -> int: ...

    @property
    def max_num_seqs(self) -> int: ...

    @property
    def max_num_batched_tokens(self) -> int: ...

    @property
    def eos_token_ids(self) -> list[int]: ...

    @property
    def bos_token_id(self) -> int | None: ...

    @property
    def tensor_parallel_size(self) -> int: ...

class RuntimeStats:
    @property
    def steps(self) -> int: ...

    @property
    def prefill_tokens(self) -> int: ...

    @property
    def decode_tokens(self) -> int: ...

    @property
    def preemptions(self) -> int: ...

    @property
    def requests_finished(self) -> int: ...

    @property
    def requests_aborted(self) -> int: ...

    @property
    def requests_failed(self) -> int: ...

    @property
    def waiting(self) -> int: ...

    @property
    def running(self) -> int: ...

    @property
    def free_blocks(self) -> int: ...

    @property
    def prefill_seconds(self) -> float: ...

    @property
    def decode_seconds(self) -> float: ...

    @property
    def host_allocations(self) -> int: ...

    @property
    def host_live_bytes(self) -> int: ...

    @property
    def device_live_bytes(self) -> int: ...

def measure_read_rate(device: str, num_threads: int = 0) -> float:
    """Bytes per second at which the device's memory can be read."""

class Engine:
    def __init__(self, path: str, options: RuntimeOptions, progress: Callable[[int, int], None] | None = None) -> None:
        """
        Loads a model directory; progress(bytes_done, bytes_total) may raise to cancel.
        """

    def rank(self) -> int: ...

    def serve(self) -> None:
        """
        On ranks other than 0: computes rank 0's steps until it closes its Runtime.
        """

    def submit(self, prompt: Sequence[int], params: SamplingParams) -> int: ...

    def wait(self, id: int, timeout_ms: int) -> list[SampleDelta]:
        """What is new; waits at most timeout_ms, and never over 50 ms."""

    def finished(self, id: int) -> bool: ...

    def prompt_logprobs(self, id: int) -> list[list[TokenLogprob]]: ...

    def finish_sample(self, id: int, sample: int, reason: str) -> None: ...

    def abort(self, id: int) -> None: ...

    def release(self, id: int) -> None: ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]: ...

    def calibrate(self, sequences: Sequence[Sequence[int]], progress: Callable[[int], None] | None = None) -> tuple:
        """(number of tokens, weight name -> float64 [in_features])"""

    def info(self) -> RuntimeInfo: ...

    def stats(self) -> RuntimeStats: ...

    def close(self) -> None: ...

class Checkpoint:
    """A model directory, its manifest and small files verified."""

    @staticmethod
    def open(path: str, verify: str = 'full', allow_symlinks: bool = False) -> Checkpoint: ...

    def side_file(self, name: str) -> bytes:
        """Contents, digest checked; empty when the manifest has no such file."""

    def tensors(self) -> dict:
        """Logical name -> {encoding, dtype, shape, shard, nnz, scale_group}."""

    def read_dense(self, name: str) -> object:
        """The tensor, which has no scales; bf16 as uint16 bits."""

    def read_sparse(self, name: str) -> tuple:
        """
        (mask u8 [rows, ceil(cols/8)], values [nnz], row_offsets i64 [rows + 1]), without scales; bf16 as uint16 bits, e4m3 and pairs of i4 as uint8.
        """

    @property
    def digest(self) -> str: ...

    @property
    def model_id(self) -> str: ...

    @property
    def architecture(self) -> str: ...

class LayerStream:
    """
    A model run one layer at a time over hidden states that the caller keeps.
    """

    def __init__(self, path: str, device: str, dtype: str, isa: str, num_threads: int, max_tokens: int, max_length: int) -> None: ...

    @property
    def num_layers(self) -> int: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def device(self) -> str:
        """cpu or cuda:N."""

    def load_embedding(self) -> None: ...

    def load_layer(self, layer: int, replacements: dict) -> None:
        """
        Loads a layer; replacements maps weight names to f32, f16 or bf16 (uint16) matrices to use instead of the stored ones.
        """

    def load_head(self) -> None: ...

    def embed(self, sequences: Sequence[Sequence[int]]) -> object:
        """Hidden states f32 [tokens, hidden_size], sequence after sequence."""

    def run_layer(self, lengths: Sequence[int], hidden: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], capture: bool, names: Sequence[str] = [], on_device: bool = False, part: str = 'whole') -> object:
        """
        The loaded layer, or its part "attention" or "mlp", in place on hidden f32 [tokens, hidden_size]. With capture: [(weight
        names, input [tokens, k])], of the products with one of the weights `names` or of all. Inputs are f32 numpy arrays, or with on_device arrays for from_dlpack
        in the device's memory, of the activations' dtype (bf16 as uint16).
        """

    def head(self, hidden: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> object:
        """Logits f32 [rows, vocab_size]."""

def product_us(m: int, k: int, n: int, sparsity: float) -> float:
    """
    Predicted microseconds on an H100 of a product of n tokens with an fp16 weight [m, k], in the format chosen for its sparsity.
    """
