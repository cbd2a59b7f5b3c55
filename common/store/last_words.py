"""What a node's reaper is to say to Redis when the node died."""

from __future__ import annotations

import os
from collections.abc import Sequence

from common.processes.words import LastWords, LastWordsTls
from common.store.client import StoreAddress
from common.store.endpoint import TlsParts, endpoint_of, pack
from common.store.scripts import Arg


def last_words_of(address: StoreAddress, *commands: Sequence[Arg]) -> LastWords:
    """The commands, after those that open a session there, for :meth:`ProcessGuard.last_words`.

    They must be such as may be said twice, or never: the reaper tries once, and a second reaper may say them again.
    The connection speaks RESP2. Raises :class:`ConfigurationError` for an address that means nothing.
    """
    place = endpoint_of(address)
    said = (*place.greeting, *commands)
    return LastWords(
        host=place.host,
        port=place.port,
        path=_absolute(place.path),
        tls=None if place.tls_parts is None else _tls(place.tls_parts),
        data=b"".join(pack(command) for command in said),
        replies=len(said),
    )


def _tls(parts: TlsParts) -> LastWordsTls:
    return LastWordsTls(
        cafile=_absolute(parts.cafile),
        verify=parts.verify,
        check_hostname=parts.check_hostname,
        certfile=_absolute(parts.certfile),
        keyfile=_absolute(parts.keyfile),
    )


def _absolute(path: str | None) -> str | None:
    """The reaper has another working directory."""
    return None if path is None else os.path.abspath(path)
