"""What generate, stream, chat and score return."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_model as tiny
from conftest import wait_until_idle

from gossamer import ContextLengthError, Runtime, SamplingParams

PROMPT = "The quick brown fox"
GREEDY = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)


def only(outputs):
    assert isinstance(outputs, list)
    (output,) = outputs
    (sample,) = output.outputs
    return sample


@pytest.fixture(scope="module")
def greedy(runtime):
    return only(runtime.generate(PROMPT, GREEDY))


def test_greedy_says_many_things(greedy):
    assert len(greedy.token_ids) == 48
    assert len(set(greedy.token_ids)) >= 16
    assert greedy.finish_reason == "length"
    assert greedy.stop_reason is None
    assert greedy.logprobs is None
    assert greedy.cumulative_logprob is None


def test_text_is_the_decoding_of_the_tokens(runtime, greedy):
    assert greedy.text == runtime.tokenizer.decode(greedy.token_ids)


def test_the_result_carries_its_prompt(runtime):
    (by_text,) = runtime.generate(PROMPT, max_tokens=1)
    assert by_text.prompt == PROMPT
    assert by_text.prompt_token_ids == runtime.tokenizer.encode(PROMPT)
    assert by_text.finished
    (by_ids,) = runtime.generate([5, 6], max_tokens=1)
    assert by_ids.prompt is None
    assert by_ids.prompt_token_ids == [5, 6]


def test_every_form_of_prompt(runtime, greedy):
    ids = runtime.tokenizer.encode(PROMPT)
    for prompts in (
        PROMPT,
        ids,
        tuple(ids),
        np.array(ids),
        np.array(ids, dtype=">i4"),
        [PROMPT],
        [ids],
        [np.array(ids, np.uint16)],
        (PROMPT,),
    ):
        assert only(runtime.generate(prompts, GREEDY)).token_ids == greedy.token_ids
    several = runtime.generate([PROMPT, ids, "the lazy dog"], GREEDY)
    assert [o.outputs[0].token_ids == greedy.token_ids for o in several] == [True, True, False]
    assert len(runtime.generate(np.array([ids, ids]), GREEDY)) == 2


def test_company_and_order_change_nothing(runtime, greedy):
    prompts = [PROMPT, *(f"{word} dog" for word in tiny.TEXT.split()[:20])]
    params = [GREEDY] + [SamplingParams(temperature=1.5, seed=i, max_tokens=5 + i) for i in range(20)]
    together = [o.outputs[0].token_ids for o in runtime.generate(prompts, params)]
    reverse = [o.outputs[0].token_ids for o in runtime.generate(prompts[::-1], params[::-1])][::-1]
    alone = [only(runtime.generate(prompt, one)).token_ids for prompt, one in zip(prompts, params, strict=True)]
    assert together == reverse == alone
    assert together[0] == greedy.token_ids
    assert [len(ids) <= 5 + i for i, ids in enumerate(together[1:])] == [True] * 20


def test_preemption_changes_nothing(tiny_model, runtime):
    prompts = [f"{word} {word}" for word in tiny.TEXT.split()[:12]]
    params = SamplingParams(temperature=1, seed=3, max_tokens=60, ignore_eos=True)
    expected = [o.outputs[0].token_ids for o in runtime.generate(prompts, params)]
    info = runtime.info()
    budget = 20 * info.kv_bytes // info.num_blocks
    with Runtime(tiny_model, device="cpu", kv_cache_memory=budget, max_num_batched_tokens=64, num_threads=1) as small:
        assert small.info().num_blocks == 20
        assert [o.outputs[0].token_ids for o in small.generate(prompts, params)] == expected
        assert small.stats().preemptions > 0
        assert small.stats().free_blocks == 20


def test_samples(runtime):
    params = SamplingParams(n=4, temperature=1, seed=1, max_tokens=12, ignore_eos=True)
    (first,) = runtime.generate(PROMPT, params)
    (second,) = runtime.generate(PROMPT, params)
    assert [sample.index for sample in first.outputs] == [0, 1, 2, 3]
    assert len({tuple(sample.token_ids) for sample in first.outputs}) == 4
    assert first.outputs == second.outputs


def test_unseeded_requests_differ_but_repeat_with_the_runtime(tiny_model):
    def draw():
        with Runtime(tiny_model, device="cpu", seed=5, num_threads=1) as runtime:
            return [only(runtime.generate(PROMPT, max_tokens=12)).token_ids for _ in range(3)]

    first = draw()
    assert first == draw()
    assert len({tuple(ids) for ids in first}) == 3


def test_hugging_face_spellings(runtime, greedy):
    sample = only(runtime.generate(PROMPT, max_new_tokens=48, do_sample=False, eos_token_id=[]))
    assert sample.token_ids == greedy.token_ids
    assert len(runtime.generate(PROMPT, num_return_sequences=3)[0].outputs) == 3


def test_max_tokens_defaults(runtime):
    context = runtime.info().max_model_len
    prompt = runtime.tokenizer.encode(PROMPT)
    assert len(only(runtime.generate(PROMPT, ignore_eos=True)).token_ids) == 16
    with runtime.stream(PROMPT, ignore_eos=True, temperature=0) as stream:
        for _ in stream:
            pass
    assert len(stream.output.outputs[0].token_ids) == context - len(prompt)
    assert stream.output.outputs[0].finish_reason == "length"


def test_sampling_params_are_taken_as_they_are(runtime):
    assert len(only(runtime.generate(PROMPT, sampling_params=SamplingParams(max_tokens=3, ignore_eos=True))).token_ids) == 3
    with runtime.stream(PROMPT, SamplingParams(ignore_eos=True)) as stream:
        assert sum(len(chunk.token_ids) for chunk in stream) == 16


def test_stream_is_generate_in_pieces(runtime, greedy):
    chunks = list(runtime.stream(PROMPT, GREEDY))
    assert "".join(chunk.text for chunk in chunks) == greedy.text
    assert [token for chunk in chunks for token in chunk.token_ids] == greedy.token_ids
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["length"]
    assert chunks[-1].finish_reason == "length"


def test_stream_of_several_samples(runtime):
    params = SamplingParams(n=3, seed=9, max_tokens=10, ignore_eos=True)
    (expected,) = runtime.generate(PROMPT, params)
    texts = ["", "", ""]
    with runtime.stream(PROMPT, params) as stream:
        for chunk in stream:
            texts[chunk.index] += chunk.text
    assert texts == [sample.text for sample in expected.outputs]
    assert stream.output.outputs == expected.outputs
    assert list(stream) == []


def test_logprobs(runtime, greedy):
    params = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True, logprobs=3, prompt_logprobs=0)
    (output,) = runtime.generate(PROMPT, params)
    sample = output.outputs[0]
    assert sample.token_ids == greedy.token_ids
    assert sample.logprobs is not None
    for token, entry in zip(sample.token_ids, sample.logprobs, strict=True):
        assert next(iter(entry)) == token
        assert entry[token].rank == 1
        assert entry[token].decoded_token == runtime.tokenizer.token_text(token)
        assert [logprob.rank for logprob in entry.values()] == list(range(1, len(entry) + 1))
        assert len(entry) == 3
    own = [entry[token].logprob for token, entry in zip(sample.token_ids, sample.logprobs, strict=True)]
    assert sample.cumulative_logprob == pytest.approx(sum(own))

    (scores,) = runtime.score([*output.prompt_token_ids, *sample.token_ids])
    assert scores.dtype == np.float32
    assert scores[0] == 0
    split = len(output.prompt_token_ids)
    np.testing.assert_allclose(scores[split:], own, rtol=0, atol=1e-4)
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    prompt = [entry[token].logprob for token, entry in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)]
    np.testing.assert_allclose(scores[1:split], prompt, rtol=0, atol=1e-4)


def test_score_takes_texts_and_ids(runtime):
    ids = runtime.tokenizer.encode(PROMPT)
    by_text, by_ids = runtime.score([PROMPT, ids])
    np.testing.assert_array_equal(by_text, by_ids)
    assert by_text.shape == (len(ids),)
    (one,) = runtime.score([7])
    np.testing.assert_array_equal(one, [0])


def test_calibrate_sums_squares_of_each_linears_input(runtime):
    done = []
    calibration = runtime.calibrate([PROMPT, [1, 2, 3]], progress=done.append)
    assert calibration.num_tokens == len(runtime.tokenizer.encode(PROMPT)) + 3
    expected = {name: tensor.shape[1] for name, tensor in tiny.weights().items() if "_proj" in name}
    shapes = {name: values.shape[0] for name, values in calibration.sum_squares.items() if "_proj" in name}
    assert shapes == expected
    for values in calibration.sum_squares.values():
        assert values.dtype == np.float64
        assert (values > 0).all()
    assert only(runtime.generate(PROMPT, max_tokens=2, ignore_eos=True)).finish_reason == "length"


def test_end_of_sequence(runtime):
    bias = {tiny.END: 100.0}
    sample = only(runtime.generate(PROMPT, temperature=0, logit_bias=bias))
    assert sample.token_ids == [tiny.END]
    assert (sample.text, sample.finish_reason, sample.stop_reason) == ("", "stop", None)
    sample = only(runtime.generate(PROMPT, temperature=0, logit_bias=bias, ignore_eos=True, max_tokens=3))
    assert (sample.token_ids, sample.finish_reason) == ([tiny.END] * 3, "length")
    sample = only(runtime.generate(PROMPT, temperature=0, logit_bias=bias, min_tokens=4))
    assert len(sample.token_ids) == 5
    assert sample.token_ids[-1] == tiny.END
    assert tiny.END not in sample.token_ids[:-1]


def test_stop_tokens_end_the_output_but_are_not_in_the_text(runtime, greedy):
    position = next(i for i in range(8, 48) if greedy.token_ids[i] not in greedy.token_ids[:i])
    token = greedy.token_ids[position]
    sample = only(runtime.generate(PROMPT, temperature=0, max_tokens=48, stop_token_ids=[token], ignore_eos=True))
    assert sample.token_ids == greedy.token_ids[: position + 1]
    assert sample.text == runtime.tokenizer.decode(greedy.token_ids[:position])
    assert (sample.finish_reason, sample.stop_reason) == ("stop", token)


def test_context_boundary(runtime):
    context = runtime.info().max_model_len
    fits = only(runtime.generate([5] * (context - 3), max_tokens=3, ignore_eos=True))
    assert len(fits.token_ids) == 3
    with pytest.raises(ContextLengthError, match=str(context)) as caught:
        runtime.generate([5] * (context - 3), max_tokens=4)
    assert (caught.value.num_prompt, caught.value.num_new, caught.value.limit) == (context - 3, 4, context)
    with pytest.raises(ContextLengthError):
        runtime.stream([5] * (context + 1))
    with pytest.raises(ContextLengthError):
        runtime.score([[5] * (context + 1)])
    wait_until_idle(runtime)


def test_chat(runtime):
    messages = [{"role": "user", "content": "hello"}]
    ids = runtime.apply_chat_template(messages)
    assert runtime.tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert ids[0] == 1
    (answer,) = runtime.chat(messages, max_tokens=6, temperature=0)
    assert answer.prompt_token_ids == ids
    assert answer.outputs == runtime.generate(ids, max_tokens=6, temperature=0)[0].outputs
    assert len(runtime.chat([messages, messages], max_tokens=2)) == 2
    with pytest.raises(ValueError, match="no such role"):
        runtime.chat([{"role": "forbidden", "content": ""}])
    with pytest.raises(TypeError, match="messages"):
        runtime.chat("hello")


def test_info(runtime):
    info = runtime.info()
    assert info.architecture == "LlamaForCausalLM"
    assert info.num_layers == tiny.LAYERS
    assert info.vocab_size == tiny.vocab_size()
    assert info.max_model_len == tiny.CONTEXT
    assert info.pruning is None
    assert 0.45 < info.sparsity < 0.55
    assert info.num_parameters == sum(tensor.size for tensor in tiny.weights().values())
    assert info.eos_token_ids == [tiny.END]
    assert "tiny" not in repr(info.device)
    assert "LlamaForCausalLM" in repr(runtime)


def test_decode_allocates_nothing(runtime):
    runtime.generate(PROMPT, GREEDY)
    before = runtime.stats().host_allocations
    runtime.generate([PROMPT] * 8, GREEDY)
    assert runtime.stats().host_allocations == before
