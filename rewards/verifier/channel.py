"""JSON lines over a socket, open files with them: what the verifier and its processes say to each other."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Sequence
from typing import Any


class Channel:
    """One end of a stream socket. Raises EOFError when the other end is gone, TimeoutError when it says nothing in time."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._pending = b""
        self.files: list[int] = []  # descriptors that came with messages; whoever takes one closes it

    def send(self, message: dict[str, Any], files: Sequence[int] = (), seconds: float | None = None) -> None:
        """Send a message, and open files with it; at most `seconds`."""
        line = json.dumps(message).encode() + b"\n"
        try:
            self._socket.settimeout(seconds)
            sent = socket.send_fds(self._socket, [line], files) if files else 0
            self._socket.sendall(line[sent:])
        except TimeoutError:
            raise
        except OSError as error:
            raise EOFError("the other end is gone") from error

    def receive(self, seconds: float | None = None) -> dict[str, Any]:
        """The next message, waited for at most `seconds`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._pending:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("no message in time")
            self._socket.settimeout(left)
            try:
                chunk, files, _, _ = socket.recv_fds(self._socket, 1 << 16, 1)
            except TimeoutError:
                raise
            except OSError as error:
                raise EOFError("the other end is gone") from error
            if not chunk:
                raise EOFError("the other end is closed")
            self.files += files
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)

    def shut(self) -> None:
        """End the conversation for both sides: whoever waits for a message, here in another thread too, gets EOFError."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end, and files that nobody took."""
        self._socket.close()
        while self.files:
            os.close(self.files.pop())
