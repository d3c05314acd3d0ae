"""Serve several askers from one event loop; the engine batches whatever is running.

python examples/python/many_at_once.py models/smollm2-40
"""

import asyncio
import sys
import time

from gossamer import Runtime

QUESTIONS = ["Name a fruit.", "Name a river.", "Name a colour.", "Name a planet."]


async def ask(runtime: Runtime, question: str) -> str:
    (output,) = await runtime.achat([{"role": "user", "content": question}], max_tokens=24, temperature=0)
    return output.outputs[0].text


async def main(model: str) -> None:
    with Runtime(model) as runtime:
        start = time.perf_counter()
        answers = await asyncio.gather(*(ask(runtime, question) for question in QUESTIONS))
        for question, answer in zip(QUESTIONS, answers, strict=True):
            print(f"{question} {answer}")
        print(f"{len(QUESTIONS)} answers in {time.perf_counter() - start:.2f} s")


asyncio.run(main(sys.argv[1]))
