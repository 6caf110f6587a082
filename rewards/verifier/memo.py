"""What has been judged before, so that the same answer to the same problem is judged once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from rewards.batch import Verdict

LONG = 1_000  # characters from which a text is kept as its digest only

Key = tuple[str, str]


def key_of(gold: str, answer: str) -> Key:
    """What (gold, answer) is remembered under. How they are compared need not be in it: each verifier has its own memo."""
    return _brief(gold), _brief(answer)


def _brief(text: str) -> str:
    return text if len(text) <= LONG else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Memo:
    """The last `size` verdicts that were asked for. Not locked: its owner is."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._known: OrderedDict[Key, tuple[Verdict, str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: Key) -> tuple[Verdict, str] | None:
        """(verdict, reason), which now counts as used last; None where it is not known."""
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    def put(self, key: Key, found: tuple[Verdict, str]) -> None:
        """Remember, and forget what was not used for longest."""
        if self.size:
            self._known[key] = found
            self._known.move_to_end(key)
            if len(self._known) > self.size:
                self._known.popitem(last=False)
