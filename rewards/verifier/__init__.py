"""A verdict on a response: `verify(gold, response)`. What needs algebra is decided in processes that can be killed."""

from rewards.verifier.counts import Counts
from rewards.verifier.default import check_gold, check_golds, verify
from rewards.verifier.extract import Extraction, extract, last_box
from rewards.verifier.verifier import Judgement, Verifier

__all__ = [
    "Counts",
    "Extraction",
    "Judgement",
    "Verifier",
    "check_gold",
    "check_golds",
    "extract",
    "last_box",
    "verify",
]
