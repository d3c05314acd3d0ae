"""Continue a few prompts, together and with log-probabilities.

python examples/python/generate.py models/smollm2-40
"""

import sys

from gossamer import Runtime, SamplingParams

PROMPTS = ["The capital of France is", "Water boils at", "Once upon a time"]

with Runtime(sys.argv[1]) as runtime:
    params = SamplingParams(max_tokens=24, temperature=0, stop="\n", logprobs=0)
    for request in runtime.generate(PROMPTS, params):
        answer = request.outputs[0]
        print(f"{request.prompt}{answer.text}")
        print(f"    {len(answer.token_ids)} tokens, ended by {answer.finish_reason}, log-probability {answer.cumulative_logprob:.2f}")
