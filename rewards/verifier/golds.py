"""Whether gold answers can be verified at all, found out when data is loaded. What could be parsed once is remembered on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import Future
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.verifier.policy import gold_text
from rewards.verifier.process import Reply

if TYPE_CHECKING:
    from rewards.verifier.verifier import Verifier

PARSERS = ("math-verify", "latex2sympy2_extended", "sympy")


class Readable:
    """The texts that math-verify could parse, as digests in a file of the user's cache folder; a file for each version of
    what parses them. A cache that cannot be read or written is done without."""

    def __init__(self) -> None:
        self.path = _folder() / f"golds-{_version()}.txt"
        self._new: list[str] = []
        self._known: set[str] = set()
        with contextlib.suppress(OSError, UnicodeDecodeError):
            self._known = set(self.path.read_text(encoding="ascii").split())

    def __contains__(self, text: str) -> bool:
        return _digest(text) in self._known

    def add(self, text: str) -> None:
        """Remember a text; `save` keeps it."""
        self._new.append(_digest(text))

    def save(self) -> None:
        """Add what is new to the file, in one write, so that runs which do so at the same time do not spoil it."""
        if self._new:
            with contextlib.suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab", buffering=0) as file:
                    file.write("".join(f"{digest}\n" for digest in self._new).encode())


def check(verifier: Verifier, golds: Iterable[str], readable: Readable | None = None) -> list[str | None]:
    """For each gold why this verifier cannot verify it, None where it can; its workers share what must be parsed."""
    golds = list(golds)
    asked = {gold: _ask(verifier, gold, readable) for gold in dict.fromkeys(golds)}
    doubts: dict[str, str | None] = {}
    for gold, (text, found) in asked.items():
        doubts[gold] = _why(found.result(), verifier.judge) if isinstance(found, Future) else found
        if readable is not None and isinstance(found, Future) and text is not None and doubts[gold] is None:
            readable.add(text)
    return [doubts[gold] for gold in golds]


def _ask(verifier: Verifier, gold: str, readable: Readable | None) -> tuple[str | None, Future[Reply] | str | None]:
    """(the text that must be parsed, None where none must; what is known of it or the question about it)."""
    if not isinstance(gold, str):
        return None, "it is not text"
    if verifier.judge is not None:
        return None, verifier.ask({"check": gold}) if gold.strip() else "it is empty"
    text, why = gold_text(gold)
    if text is None or (readable is not None and text in readable):
        return None, why or None
    return text, verifier.ask({"parse": text})


def _why(reply: Reply, judge: str | None) -> str | None:
    """Why a gold cannot be verified, from what a process says of it."""
    if reply.verdict == "correct":
        return None
    if judge is None:
        return f"math-verify cannot parse it ({reply.reason})"
    return f"{judge} refuses it ({reply.detail or reply.reason})"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "taut"


def _version() -> str:
    """Changes with everything that decides whether a text can be parsed."""
    ours = Path(__file__).with_name("algebra.py").read_bytes()
    theirs = []
    for name in PARSERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            theirs.append(f"{name}={metadata.version(name)}")
    return hashlib.sha256(ours + " ".join(theirs).encode()).hexdigest()[:16]
