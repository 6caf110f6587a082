"""The verifier's fuzzer: `inputs.py` what an input is, `answers.py` and `attacks.py` the kinds, `run.py` the judging.

A kind is a function under `@kind(weight)` in `answers.py` or `attacks.py`; nothing else lists it.
"""

from benchmarks.fuzz_verifier import answers, attacks  # noqa: F401  # importing them enters their kinds
from benchmarks.fuzz_verifier.inputs import KINDS, Generator, Input

__all__ = ["KINDS", "Generator", "Input"]
