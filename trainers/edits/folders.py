"""Hugging Face folders, tensor by tensor: a shard in memory at a time, everything but the weights copied as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.errors import TautError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


def tensors(folder: Path) -> dict[str, Path]:
    """The file that holds each tensor of a model folder. Raises TautError for a folder without safetensors, or whose
    shards hold a tensor twice."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Path] = {}
    if not (folder / "config.json").is_file():
        raise TautError(f"{folder}: no config.json there; give a Hugging Face model folder")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as shard:
                names = list(shard.keys())
        except (OSError, SafetensorError) as error:
            raise TautError(f"{file}: cannot be read as safetensors ({error}); copy it again") from error
        for name in names:
            if name in found:
                raise TautError(f"{folder}: {found[name].name} and {file.name} both hold {name!r}; remove one of them")
            found[name] = file
    if not found:
        raise TautError(f"{folder}: no weights as *.safetensors; save the whole model there with save_pretrained")
    return found


def load(file: Path, name: str) -> Tensor:
    """One tensor of a file."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as shard:
        return shard.get_tensor(name)


def free(out: Path) -> Path:
    """`out`, where nothing is yet. Raises TautError otherwise, before any work is done."""
    if out.exists():
        raise TautError(f"out={out}: exists already; remove it or choose another folder")
    return out


def rewrite(source: Path, out: Path, change: Callable[[str, Tensor], Tensor], notes: dict[str, str]) -> None:
    """Write to `out` the model of `source` with every tensor replaced by change(name, tensor), in the dtype that it has.

    Configuration and tokenizer are copied; `notes` are further files, by name. The folder appears whole or not at all.
    Raises TautError when it cannot be written, or a changed tensor is not finite.
    """
    from safetensors.torch import load_file, save_file

    temporary = free(out).with_name(f".{out.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for file in sorted(p for p in source.iterdir() if p.is_file()):
            if file.suffix == ".safetensors":
                changed = {name: _kept(name, tensor, change) for name, tensor in load_file(file).items()}
                save_file(changed, temporary / file.name, metadata={"format": "pt"})
                shutil.copymode(file, temporary / file.name)  # save_file's own is private to the user
            elif file.suffix not in WEIGHTS:
                shutil.copyfile(file, temporary / file.name)
        for name, text in notes.items():
            (temporary / name).write_text(text, encoding="utf-8")
        os.replace(temporary, out)
    except OSError as error:
        raise TautError(f"{out}: cannot be written ({error}); free some space or choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _kept(name: str, old: Tensor, change: Callable[[str, Tensor], Tensor]) -> Tensor:
    new = change(name, old).to(old.dtype).contiguous()
    if new.shape != old.shape:
        raise ValueError(f"{name}: {tuple(new.shape)} in place of {tuple(old.shape)}")
    if old.is_floating_point() and not new.isfinite().all() and old.isfinite().all():
        raise TautError(f"{name}: not finite in {old.dtype} once it is edited; choose a smaller strength")
    return new
