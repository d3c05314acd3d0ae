"""The evaluation harness on a local task; its public tasks need their data from the network."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import tiny_model as tiny

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when it is imported
pytest.importorskip("lm_eval", reason="the evaluation harness is not installed: pip install 'gossamer[eval]'")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from gossamer import Runtime
from gossamer.evaluate.harness import GossamerLM

pytestmark = pytest.mark.filterwarnings("ignore")

QUESTIONS = [
    {"question": "The quick brown fox", "choices": [" jumps over", " the lazy dog", " sleeps"], "answer": 0},
    {"question": "while the small grey cat", "choices": [" sleeps under", " the table", " fox"], "answer": 1},
    {"question": "1, 2, 3", "choices": [" and so on", " user", " Brücke"], "answer": 2},
]
TASK = """
task: gossamer_local
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


@pytest.fixture(scope="module")
def lm(tiny_model):
    lm = GossamerLM(tiny_model, batch_size=2, num_threads=2)
    yield lm
    lm.close()


@pytest.fixture(scope="module")
def scores(tiny_model):
    """Log-probability of a continuation by `Runtime.score`, which the adapter does not use."""
    with Runtime(tiny_model, num_threads=2) as runtime:

        def score(context, continuation):
            begin = len(runtime.tokenizer.encode(context))
            return float(np.sum(runtime.score([context + continuation])[0][begin:], dtype=np.float64))

        yield score


def request(kind, *arguments):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def test_loglikelihood_is_the_runtimes(lm, scores):
    pairs = [(entry["question"], choice) for entry in QUESTIONS for choice in entry["choices"]]
    found = lm.loglikelihood([request("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)
    for (value, _), pair in zip(found, pairs, strict=True):
        assert value == pytest.approx(scores(*pair), rel=1e-5)


def test_greedy_is_what_greedy_generation_says(lm, tiny_model):
    with Runtime(tiny_model, num_threads=2) as runtime:
        prompt = runtime.tokenizer.encode("The quick")
        (output,) = runtime.generate([prompt], max_tokens=3, temperature=0, ignore_eos=True)
        greedy = list(output.outputs[0].token_ids)
    other = [*greedy[:2], (greedy[2] + 1) % 200 + 5]
    found = lm._loglikelihood_tokens([(None, prompt, greedy), (None, prompt, other), (None, prompt, greedy[:1])], disable_tqdm=True)
    assert [is_greedy for _, is_greedy in found] == [True, False, True]


def test_rolling_covers_every_token_once(lm, tiny_model):
    """A text of more than one context: the first token follows the prefix, every other one what is in its window before it."""
    text = tiny.TEXT * 3
    (found,) = lm.loglikelihood_rolling([request("loglikelihood_rolling", text)], disable_tqdm=True)
    with Runtime(tiny_model, num_threads=2) as runtime:
        tokens = runtime.tokenizer.encode(text)
        assert len(tokens) > tiny.CONTEXT
        size = tiny.CONTEXT - 2
        first = runtime.score([[lm.prefix_token_id, *tokens[:size]]])[0][1:].sum(dtype=np.float64)
        second = runtime.score([tokens[-size - 1 :]])[0][size - len(tokens) :].sum(dtype=np.float64)  # those that the first lacks
        assert found == pytest.approx(first + second, rel=1e-5)
        together = runtime.score([[lm.prefix_token_id, *tokens[:100]]])[0][1:].sum(dtype=np.float64)
        (short,) = lm.loglikelihood_rolling([request("loglikelihood_rolling", runtime.tokenizer.decode(tokens[:100]))], disable_tqdm=True)
        assert short == pytest.approx(together, rel=1e-5)


def test_generation_ends_before_the_stop_string(lm, tiny_model):
    with Runtime(tiny_model, num_threads=2) as runtime:
        whole = runtime.generate(["The quick"], max_tokens=24, temperature=0)[0].outputs[0].text
    stop = whole[5:8]
    found = lm.generate_until(
        [
            request("generate_until", "The quick", {"until": [stop], "max_gen_toks": 24}),
            request("generate_until", "The quick", {"max_gen_toks": 24}),
        ],
        disable_tqdm=True,
    )
    assert found == [whole[: whole.index(stop)], whole]


def test_a_local_task(lm, scores, tmp_path):
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(entry) + "\n" for entry in QUESTIONS))
    (tmp_path / "local.yaml").write_text(TASK.format(file=data))
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    results = lm_eval.simple_evaluate(model=lm, tasks=["gossamer_local"], task_manager=tasks, bootstrap_iters=0)
    right = [int(np.argmax([scores(entry["question"], c) for c in entry["choices"]])) == entry["answer"] for entry in QUESTIONS]
    assert results["results"]["gossamer_local"]["acc,none"] == pytest.approx(np.mean(right))


def test_it_is_registered_by_name(tiny_model):
    from lm_eval.api.registry import get_model

    assert get_model("gossamer") is GossamerLM
