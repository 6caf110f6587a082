"""Checkpoints: a folder appears whole or not at all, and what is read back is what was written.

RUN/checkpoints/step-000010/: `model/` (a Hugging Face folder), `trainer.pt` (optimiser, torch RNG), `state.json` (step,
reward state, plan state, the configuration), `manifest.json` (size and SHA-256 of every file).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rewards.errors import TautError
from trainers.share import RankLost

MANIFEST = "manifest.json"


def folder(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return run / "checkpoints" / f"step-{step:06d}"


def steps(run: Path) -> list[int]:
    """Steps that have a complete checkpoint, rising."""
    return sorted(int(p.name[5:]) for p in (run / "checkpoints").glob("step-*") if p.name[5:].isdigit())


def save(run: Path, step: int, state: dict[str, Any], fill: Callable[[Path], None], keep: int) -> Path:
    """Write the checkpoint of `step`: fill(folder) adds the large files, `state` goes to state.json. Then all but the last
    `keep` are removed. Raises TautError when it cannot be written; earlier checkpoints are untouched then."""
    final, temporary = folder(run, step), run / "checkpoints" / f".step-{step:06d}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        fill(temporary)
        (temporary / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True), encoding="utf-8")
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        manifest = {str(p.relative_to(temporary)): {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in files}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in [*files, temporary / MANIFEST, temporary]:
            _to_disk(path)
        if final.exists():  # a resumed run passes the same step again
            shutil.rmtree(final)
        os.replace(temporary, final)
        _to_disk(final.parent)
    except RankLost:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    except Exception as error:  # safetensors and torch raise their own kinds for a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        free = shutil.disk_usage(run).free
        last = steps(run)
        kept = f"the last good checkpoint is {folder(run, last[-1])}" if last else "there is no earlier checkpoint"
        raise TautError(
            f"{final}: the checkpoint cannot be written ({type(error).__name__}: {error}); {free / 2**20:.0f} MiB are free; "
            f"{kept}; free some space, then: taut train resume={run}"
        ) from error
    for old in steps(run)[:-keep]:
        shutil.rmtree(folder(run, old), ignore_errors=True)
    return final


def load_state(path: Path) -> dict[str, Any]:
    """state.json of a checkpoint, after every file was found whole. Raises TautError naming the damaged file."""
    others = [s for s in steps(path.parent.parent) if folder(path.parent.parent, s) != path]
    remedy = (
        f"remove {path} to resume from {folder(path.parent.parent, others[-1])}"
        if others
        else f"remove {path} to start over"
    )
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        entries = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TautError(f"{path / MANIFEST}: not a Taut checkpoint ({error}); {remedy}") from error
    for name, (size, digest) in entries.items():
        file = path / name
        if not file.is_file():
            raise TautError(f"{file}: missing from the checkpoint; {remedy}")
        if file.stat().st_size != size:
            raise TautError(f"{file}: {file.stat().st_size} bytes, {size} were written (truncated?); {remedy}")
        if _sha256(file) != digest:
            raise TautError(f"{file}: its content changed since it was written; {remedy}")
    return json.loads((path / "state.json").read_text(encoding="utf-8"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
