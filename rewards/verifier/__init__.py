"""A verdict on a response: `Verifier().verify(gold, response)`. math-verify runs in a process that can be killed."""

from rewards.verifier.extract import Extraction, extract, last_box
from rewards.verifier.verifier import Judgement, Verifier, check_gold, check_golds

__all__ = ["Extraction", "Judgement", "Verifier", "check_gold", "check_golds", "extract", "last_box"]
