"""Requests in flight: from the engine's tokens to text, stop strings and results."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from gossamer import _core
from gossamer.errors import QueueFullError
from gossamer.outputs import CompletionOutput, FinishReason, Logprob, RequestOutput, StreamChunk, TokenLogprobs
from gossamer.sampling_params import SamplingParams
from gossamer.stop_strings import StopStringMatcher
from gossamer.tokenizer import Tokenizer

__all__ = ["AsyncTokenStream", "Request", "RequestBatch", "TokenStream"]

WAIT_MS = 50  # the longest wait in the core: Ctrl-C is answered in between
_ASYNC_PAUSE = 0.002  # seconds between looks of an async caller


class _Sample:
    """One sample's text as it grows."""

    def __init__(self, index: int, params: SamplingParams, tokenizer: Tokenizer | None) -> None:
        self.output = CompletionOutput(index)
        if params.logprobs is not None:
            self.output.logprobs = []
            self.output.cumulative_logprob = 0.0
        self._params = params
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.detokenizer(params.skip_special_tokens) if tokenizer else None
        self._matcher = StopStringMatcher(params.stop_strings, params.include_stop_str_in_output)

    def apply(self, delta: _core.SampleDelta) -> tuple[StreamChunk, bool]:
        """Take what is new; return it as a chunk, and whether a stop string ended the sample before the engine did."""
        output = self.output
        text = ""
        begin = len(output.token_ids)
        last = len(delta.tokens) - 1
        for i, token in enumerate(delta.tokens):
            output.token_ids.append(token)
            if output.logprobs is not None:
                entry = logprobs_by_token(delta.logprobs[i], self._tokenizer)
                output.logprobs.append(entry)
                output.cumulative_logprob = (output.cumulative_logprob or 0.0) + entry[token].logprob
            if not (i == last and token == delta.stop_token and not self._params.include_stop_str_in_output):
                text += self._push(token)
            if self._matcher.matched is not None:
                break
        reason = _finish_reason(delta.finish_reason)
        if reason is not None and self._matcher.matched is None:
            text += self._flush()
        stopped_here = self._matcher.matched is not None
        if stopped_here:
            output.finish_reason, output.stop_reason = "stop", self._matcher.matched
        elif reason is not None:
            output.finish_reason = reason
            if reason == "stop" and delta.stop_token in self._params.stop_token_ids:
                output.stop_reason = delta.stop_token
        output.text += text
        logprobs = None if output.logprobs is None else output.logprobs[begin:]
        chunk = StreamChunk(output.index, text, output.token_ids[begin:], logprobs, output.finish_reason, output.stop_reason)
        return chunk, stopped_here and reason is None

    def _push(self, token: int) -> str:
        if self._detokenizer is None:
            return ""
        past_minimum = len(self.output.token_ids) > self._params.min_tokens
        return self._matcher.feed(self._detokenizer.push(token), match=past_minimum)

    def _flush(self) -> str:
        if self._detokenizer is None:
            return ""
        text = self._matcher.feed(self._detokenizer.flush())
        return text + (self._matcher.flush() if self._matcher.matched is None else "")


class Request:
    """A submitted prompt. Whoever made it calls `release`, whatever happens."""

    def __init__(self, engine: _core.Engine, tokenizer: Tokenizer | None, prompt: str | None, token_ids: list[int], params: SamplingParams):
        if params.stop_strings and tokenizer is None:
            raise ValueError("stop needs a tokenizer, which the model directory lacks; use stop_token_ids")
        self._engine = engine
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._token_ids = token_ids
        self._params = params
        self._samples = [_Sample(i, params, tokenizer) for i in range(params.n)]
        self._unfinished = params.n
        self._prompt_logprobs: list[TokenLogprobs | None] | None = None
        self._released = False
        self._id = engine.submit(token_ids, core_params(params))

    @property
    def finished(self) -> bool:
        """Whether every sample is over."""
        return self._unfinished == 0

    def poll(self, timeout_ms: int = WAIT_MS) -> list[StreamChunk]:
        """Return what is new, waiting at most so long for something."""
        chunks = []
        for delta in self._engine.wait(self._id, timeout_ms):
            if self._params.prompt_logprobs is not None and self._prompt_logprobs is None:
                self._read_prompt_logprobs()
            sample = self._samples[delta.sample]
            if sample.output.finish_reason is not None:
                continue  # computed before the engine learned of the stop string
            chunk, stopped_here = sample.apply(delta)
            if stopped_here:
                self._engine.finish_sample(self._id, delta.sample, "stop")
            self._unfinished -= chunk.finish_reason is not None
            chunks.append(chunk)
        return chunks

    def output(self) -> RequestOutput:
        """Return everything so far."""
        samples = [sample.output for sample in self._samples]
        return RequestOutput(self._prompt, self._token_ids, samples, self._prompt_logprobs, self.finished)

    def release(self) -> None:
        """Cancel what is unfinished and free the request's memory in the engine. Idempotent."""
        if not self._released:
            self._released = True
            with contextlib.suppress(ValueError):  # a closed runtime has released everything
                self._engine.release(self._id)

    def _read_prompt_logprobs(self) -> None:
        entries = self._engine.prompt_logprobs(self._id)
        self._prompt_logprobs = [logprobs_by_token(entry, self._tokenizer) if entry else None for entry in entries]


class RequestBatch:
    """Many prompts on their way through the engine, a window of them at a time; `close` cancels what is left."""

    def __init__(self, make_request: Sequence[Callable[[], Request]], window: int) -> None:
        self._waiting = deque(enumerate(make_request))
        self._window = window
        self._running: dict[int, Request] = {}
        self._outputs: dict[int, RequestOutput] = {}

    @property
    def finished(self) -> bool:
        return not self._waiting and not self._running

    def step(self, timeout_ms: int) -> bool:
        """Submit what fits and take in what is new, waiting at most so long; return whether anything was new."""
        self._submit()
        progress = False
        for index, request in list(self._running.items()):
            # The oldest request is the one that surely advances: wait for that one, then look at the others.
            progress |= bool(request.poll(0 if progress else timeout_ms))
            timeout_ms = 0
            if request.finished:
                self._outputs[index] = request.output()
                request.release()
                del self._running[index]
        return progress

    def outputs(self) -> list[RequestOutput]:
        return [self._outputs[index] for index in sorted(self._outputs)]

    def close(self) -> None:
        for request in self._running.values():
            request.release()
        self._running.clear()
        self._waiting.clear()

    def _submit(self) -> None:
        while self._waiting and len(self._running) < self._window:
            index, make_request = self._waiting[0]
            try:
                self._running[index] = make_request()
            except QueueFullError:
                if not self._running:
                    raise
                return
            self._waiting.popleft()


class TokenStream:
    """An iterator of `StreamChunk`. Closing or dropping it early cancels the request."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._chunks: deque[StreamChunk] = deque()
        self._closed = False

    @property
    def output(self) -> RequestOutput:
        """Everything so far."""
        return self._request.output()

    def __iter__(self) -> TokenStream:
        return self

    def __next__(self) -> StreamChunk:
        try:
            while not self._chunks:
                if self._closed or self._request.finished:
                    self.close()
                    raise StopIteration
                self._chunks.extend(self._request.poll())
        except StopIteration:
            raise
        except BaseException:
            self.close()
            raise
        return self._chunks.popleft()

    def close(self) -> None:
        """Cancel the request if it is unfinished. Idempotent."""
        self._closed = True
        self._request.release()

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # a copy in a forked process
            self.close()


class AsyncTokenStream:
    """An asynchronous iterator of `StreamChunk`. Closing, cancelling or dropping it cancels the request."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._chunks: deque[StreamChunk] = deque()
        self._closed = False

    @property
    def output(self) -> RequestOutput:
        """Everything so far."""
        return self._request.output()

    def __aiter__(self) -> AsyncTokenStream:
        return self

    async def __anext__(self) -> StreamChunk:
        try:
            while not self._chunks:
                if self._closed or self._request.finished:
                    self._close()
                    raise StopAsyncIteration
                self._chunks.extend(self._request.poll(0))
                if not self._chunks:
                    await asyncio.sleep(_ASYNC_PAUSE)
        except StopAsyncIteration:
            raise
        except BaseException:
            self._close()
            raise
        return self._chunks.popleft()

    async def aclose(self) -> None:
        """Cancel the request if it is unfinished. Idempotent."""
        self._close()

    async def __aenter__(self) -> AsyncTokenStream:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        self._closed = True
        self._request.release()

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # a copy in a forked process
            self._close()


def run(batch: RequestBatch) -> list[RequestOutput]:
    """Drive a batch to its end; whatever interrupts it cancels what is left."""
    try:
        while not batch.finished:
            batch.step(WAIT_MS)
        return batch.outputs()
    finally:
        batch.close()


async def run_async(batch: RequestBatch) -> list[RequestOutput]:
    """As `run`, giving way to the event loop."""
    try:
        while not batch.finished:
            await asyncio.sleep(0 if batch.step(0) else _ASYNC_PAUSE)
        return batch.outputs()
    finally:
        batch.close()


def core_params(params: SamplingParams) -> _core.SamplingParams:
    """Return the core's form of the parameters."""
    core = _core.SamplingParams()
    for name in (
        "n",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "ignore_eos",
        "max_tokens",
        "min_tokens",
        "logprobs",
        "prompt_logprobs",
    ):
        setattr(core, name, getattr(params, name))
    core.stop_token_ids = list(params.stop_token_ids)
    core.logit_bias = sorted((params.logit_bias or {}).items())
    return core


def logprobs_by_token(entries: Sequence[_core.TokenLogprob], tokenizer: Tokenizer | None) -> TokenLogprobs:
    """Return the core's entries, the token's own first, by token id."""
    return {entry.token: Logprob(entry.logprob, entry.rank, tokenizer.token_text(entry.token) if tokenizer else None) for entry in entries}


def _finish_reason(name: str | None) -> FinishReason | None:
    if name == "stop":
        return "stop"
    if name == "length":
        return "length"
    return None if name is None else "abort"
