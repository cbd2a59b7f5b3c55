"""The last words of a process that died, said by its reaper: a few commands for Redis.

Nothing but the standard library is imported here, and this module only when there is something to say: ``ssl`` alone
would double the reaper.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import time
from typing import Any

CONNECT_TIMEOUT = 1.0
ANSWER_TIMEOUT = 1.0
"""Seconds for sending and for all replies together."""
_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_WHOLE = b"+-:"
_READ_SIZE = 65536


def say(words: bytes) -> None:
    """Connect, send, wait for the replies. Raises whatever goes wrong: nothing is repeated.

    ``words`` is what :meth:`common.processes.words.LastWords.line` made.
    """
    wire: dict[str, Any] = json.JSONDecoder().decode(base64.b64decode(words).decode())
    with _dialled(wire) as connection:
        end = time.monotonic() + ANSWER_TIMEOUT
        connection.settimeout(ANSWER_TIMEOUT)
        connection.sendall(base64.b64decode(wire["data"]))
        received = b""
        while count_replies(received) < wire["replies"] and (left := end - time.monotonic()) > 0:
            connection.settimeout(left)
            chunk = connection.recv(_READ_SIZE)
            if not chunk:
                return
            received += chunk


def count_replies(data: bytes) -> int:
    """How many whole replies (RESP2) ``data`` begins with."""
    count, at = 0, 0
    while (after := _end_of_reply(data, at)) is not None:
        count, at = count + 1, after
    return count


def _end_of_reply(data: bytes, begin: int) -> int | None:
    """Where the reply that begins at ``begin`` ends; None if it is not all there."""
    end, left = begin, 1
    while left:
        line = data.find(b"\r\n", end)
        if line < 0:
            return None
        kind, rest, end = data[end : end + 1], data[end + 1 : line], line + 2
        left -= 1
        if kind in _WHOLE:
            continue
        length = int(rest)  # of a string in bytes, of a list in replies; -1 stands for none
        if kind == b"*":
            left += max(length, 0)
        elif length >= 0:
            end += length + 2
    return end if end <= len(data) else None


def _dialled(wire: dict[str, Any]) -> socket.socket:
    if wire["path"] is not None:
        local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        local.settimeout(CONNECT_TIMEOUT)
        local.connect(wire["path"])
        return local
    plain = socket.create_connection((wire["host"], wire["port"]), timeout=CONNECT_TIMEOUT)
    tls = wire["tls"]
    if tls is None:
        return plain
    context = ssl.create_default_context(cafile=tls["cafile"])
    context.check_hostname = tls["check_hostname"]
    context.verify_mode = _VERIFY[tls["verify"]]
    if tls["certfile"] is not None:
        context.load_cert_chain(tls["certfile"], tls["keyfile"])
    return context.wrap_socket(plain, server_hostname=wire["host"])
