"""Ask one question and print the answer while it is being written. Leaving the loop, or Ctrl-C, cancels the request.

python examples/python/chat_stream.py models/smollm2-40 "Why is the sky blue?"
"""

import sys

from gossamer import Runtime

with Runtime(sys.argv[1]) as runtime:
    prompt = runtime.apply_chat_template([{"role": "user", "content": sys.argv[2]}])
    for chunk in runtime.stream(prompt, max_tokens=200, temperature=0):
        print(chunk.text, end="", flush=True)
    print()
