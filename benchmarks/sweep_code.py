"""Which code made a run of a sweep: kept in RUN/code.json, and compared before what was made is taken again.

The code of a stage is a digest of the sources that decide its numbers and the versions of the packages under them, so a commit
that changes a page of documentation leaves runs as they are, and a change that was never committed does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rewards.errors import TautError
from trainers.run import versions, write_text

ROOT = Path(__file__).parents[1]
SOURCES = {
    "train": ("rewards", "rollout", "trainers"),
    "evaluate": (
        "rewards",
        "rollout",
        *(f"benchmarks/{name}.py" for name in ("evaluate", "evaluation_file", "strategies")),
    ),
}
CHOICES = ("take", "anew")


def code(stage: str) -> dict[str, str]:
    """{"code": digest, "revision": of git, or "" without} of a stage (train, evaluate) as it would be run now."""
    found = versions()
    digest = hashlib.sha256(json.dumps({k: v for k, v in found["packages"].items() if k != "taut"}).encode())
    for source in SOURCES[stage]:
        path = ROOT / source
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".py", ".jinja")):
            digest.update(f"\n{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return {"code": digest.hexdigest()[:12], "revision": found["revision"] or ""}


def note(folder: Path, stage: str, afresh: bool) -> None:
    """Write down that a stage is made by the code of now; by this too, where it goes on (not `afresh`)."""
    saved, now = _saved(folder), code(stage)
    before = [] if afresh else saved.get(stage, [])
    if now["code"] not in [made["code"] for made in before]:
        before = [*before, now]
    write_text(folder / "code.json", json.dumps({**saved, stage: before}, indent=1))


def _saved(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "code.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def other(folder: Path, stage: str) -> str:
    """Which other code made what lies in the folder; "" where it was the code of now alone."""
    now, made = code(stage), _saved(folder).get(stage, [])
    if made:
        return ", then ".join(_name(m) for m in made if m["code"] != now["code"])
    try:  # made without a sweep: a clean revision tells the code, nothing else does
        revision = json.loads((folder / "versions.json").read_text(encoding="utf-8")).get("revision") or ""
    except (OSError, ValueError):
        revision = ""
    if revision and revision == now["revision"] and not revision.endswith("-dirty"):
        return ""
    return f"revision {revision}" if revision else "an unknown revision"


def _name(made: dict[str, str]) -> str:
    return f"code {made['code']}" + (f" (revision {made['revision'][:12]})" if made["revision"] else "")


def refuse_others(found: Iterable[tuple[str, str]]) -> None:
    """Raises TautError that names each (run, the other code that made it), and the choice."""
    lines = [f"  {name}: by {by}" for name, by in found]
    if lines:
        now = {stage: code(stage) for stage in SOURCES}
        told = "; ".join(f"{stage}: {_name(c)}" for stage, c in now.items())
        raise TautError(
            f"{len(lines)} of what lies in the folder was made by other code than that of now ({told}):\n"
            + "\n".join(lines)
            + "\nchoose: --other-code take (as it is), --other-code anew (made again; the old runs are moved to replaced/)"
        )
