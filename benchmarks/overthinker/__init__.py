"""The embedded benchmark: a 0.4 M-parameter Qwen3 that overthinks sums and differences, and the code that makes it.

`generate` gives problems, `CHECKPOINT` is the base model's folder; `python -m benchmarks.overthinker.make` rebuilds it.
"""

from pathlib import Path

from benchmarks.overthinker.problems import LEVELS, generate, operands, split_of
from benchmarks.overthinker.teacher import make_drill, make_trace
from benchmarks.overthinker.tokenizer import prompt, write_tokenizer

CHECKPOINT = Path(__file__).parent / "checkpoint"

__all__ = [
    "CHECKPOINT", "LEVELS", "generate", "make_drill", "make_trace", "operands", "prompt", "split_of", "write_tokenizer",
]  # fmt: skip
