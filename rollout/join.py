"""Into a Ray cluster: at an address, or into one that is started on this machine; with Ray's errors in words."""

from __future__ import annotations

import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

from rewards.errors import TautError

KNOCK_S = 15.0  # a head that was just started may need some seconds to listen
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"  # of a gRPC client: preface and settings
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's default of 15 starves the workers on a shared machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # its new default; silences a warning
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would pack and send the working directory
}


def python_path() -> str:
    """PYTHONPATH of a process that finds our packages wherever it is started, and what this one was told to find."""
    root = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join([root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])


def join(
    address: str | None,
    setting: str,
    failed: tuple[str, str],
    env: dict[str, str] | None = None,
    **local: Any,
) -> None:
    """`ray.init` at `address` (None: what RAY_ADDRESS names), or on this machine with the options `local` where neither is given
    or it is "local". `env`: the environment of its processes.

    Raises TautError that names the address by `setting`, or by the first of `failed` what did not start here, with the second as
    the remedy.
    """
    import ray

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Without "local" Ray joins whatever cluster somebody has started on this machine.
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if env:
        options["runtime_env"] = {"env_vars": env}
    if address == "local":
        options |= {"include_dashboard": False} | local
    else:
        _show_token()
        _knock(address, setting)
    for attempts_left in (2, 1, 0):
        try:
            ray.init(address, **options)
            return
        except Exception as error:  # a bare Exception when its processes are not up within 30 s
            ray.shutdown()
            if address != "local":
                raise _refused(address, error, setting) from error
            if not attempts_left:
                what, remedy = failed
                raise TautError(
                    f"{what}: Ray did not start ({first_line(error)}); is the machine overloaded? {remedy}"
                ) from error


def _knock(address: str, setting: str) -> None:
    """Raises TautError where no head of a Ray cluster answers at HOST:PORT; Ray itself would try for ten minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():  # "auto", or a name that Ray knows
        return
    until = time.monotonic() + KNOCK_S
    while error := _unlike_grpc(host.strip("[]"), int(port)):
        if time.monotonic() > until:
            raise _refused(address, error, setting) from error
        time.sleep(0.5)
    if "://" in address:
        return
    import ray._raylet

    head = getattr(ray._raylet, "GcsClient", None)
    try:
        if head is not None:  # in another Ray what `ray.init` says must do
            head(address=address)
    except Exception as error:  # some other service, or another port of Ray's
        raise _refused(address, error, setting) from error


def _unlike_grpc(host: str, port: int) -> OSError | None:
    """Why what is there cannot be Ray: nobody listens, or whoever does has no word for a gRPC client."""
    try:
        with socket.create_connection((host, port), timeout=5) as line:
            if os.environ.get("RAY_USE_TLS") == "1":  # it would not answer before a handshake
                return None
            line.sendall(GREETING)
            head = line.recv(9)
    except OSError as error:
        return error
    return None if head[3:4] == b"\x04" else OSError("something else listens there: it does not speak gRPC")


def _refused(address: str, error: BaseException, setting: str) -> TautError:
    """Why there is no joining the cluster at the address that `setting` says."""
    said = " ".join(str(error).split())
    if "ersion mismatch" in said:
        return TautError(f"{setting}={address}: {said}; install the same versions on every node")
    return TautError(
        f"{setting}={address}: no Ray cluster answers there ({first_line(error)}); start one with "
        "`ray start --head --port=PORT`, mend the address (RAY_ADDRESS where none is given), show the token that it asks for "
        "(RAY_AUTH_TOKEN, or the head's ~/.ray/auth_token copied to here), or leave it out to start one on this machine"
    )


def _show_token() -> None:
    """Show the cluster our token, where there is one: `ray start` asks for it by default as soon as `~/.ray/auth_token` exists
    (Ray 2.60; a local cluster, such as a sweep's, makes it), while `ray.init` keeps it back unless RAY_AUTH_MODE says `token`."""
    try:
        from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    except ImportError:  # an older Ray, whose clusters ask for a token only where RAY_AUTH_MODE is set
        return
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def first_line(error: BaseException) -> str:
    """An error's first line, without its full stop."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
