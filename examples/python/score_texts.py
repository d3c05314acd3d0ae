"""Which of two sentences does the model find more likely? Scores are natural-log probabilities per token.

python examples/python/score_texts.py models/smollm2-40
"""

import sys

from gossamer import Runtime

TEXTS = ["The cat sat on the mat.", "The mat cat on sat the."]

with Runtime(sys.argv[1]) as runtime:
    for text, scores in zip(TEXTS, runtime.score(TEXTS), strict=True):
        print(f"{scores[1:].mean():8.3f} per token  {text}")
