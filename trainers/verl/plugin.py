"""What verl loads in each of its processes (entry-point group `verl.plugins`): it registers Taut's estimator and losses as soon as
verl's own are there, and costs nothing before.

verl logs the errors of plug-ins at debug level only. So whatever goes wrong here is printed, and `TautCheckpoint`, which runs first
in verl's driver, refuses to start without it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

VERSION = "0.9.1"
CORE = "verl.trainer.ppo.core_algos"
OURS = "trainers.verl.algorithms"
_busy = False


class _AfterCore(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports Taut's algorithms right after verl's."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """verl's own module, with this loader around its own."""
        global _busy
        if name != CORE or _busy:
            return None
        _busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            _busy = False
        if spec is None or spec.loader is None:
            return None
        self.inner: Any = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As verl's own loader does."""
        return self.inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """verl's module, then Taut's: an error in it stops the import of verl's, which nobody can miss."""
        if module.__spec__ is not None:
            module.__spec__.loader = self.inner
        self.inner.exec_module(module)
        importlib.import_module(OURS)


def load() -> None:
    """Register now, or as soon as verl's algorithms are imported."""
    found = metadata.version("verl")
    if found != VERSION:
        raise ImportError(
            f"Taut's plug-in is made for verl {VERSION}, and {found} is installed: it uses interfaces that move between releases; "
            f"install verl=={VERSION}, or set VERL_USE_EXTERNAL_PLUGINS=none to run verl without Taut"
        )
    if CORE in sys.modules:
        importlib.import_module(OURS)
    elif not any(isinstance(finder, _AfterCore) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterCore())


try:
    load()
except Exception as error:
    print(f"taut: the verl plug-in is NOT loaded: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    raise
