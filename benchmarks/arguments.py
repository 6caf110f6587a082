"""Command lines of key=value settings."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.errors import TautError


def as_pairs(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--key value` and `--key=value` as key=value. Raises TautError where the value is missing."""
    pairs, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            pairs.append(argument)
        elif "=" in argument or rest:
            pairs.append(argument[2:] if "=" in argument else f"{argument[2:]}={rest.pop(0)}")
        else:
            raise TautError(f"{argument}: a value is missing; write {argument} VALUE")
    return pairs


def positional(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(models named without a key, key=value settings)."""
    pairs = as_pairs(arguments)
    return [a for a in pairs if "=" not in a], [a for a in pairs if "=" in a]
