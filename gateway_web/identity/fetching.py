"""Getting a small document from a URL that the operator gave: in bounded time and size, and from nowhere else."""

from __future__ import annotations

from pathlib import Path

import httpx

from common.domain.egress import EgressRules
from common.egress.client import guarded_client
from common.egress.deadline import Deadline

MAX_BYTES = 512 * 1024


class NotFetched(Exception):
    """Why there is no document; the message holds nothing of what the other side sent."""


def read_document(place: str, timeout: float, egress: EgressRules) -> bytes:
    """The document at a URL, or in a file. Raises :class:`NotFetched`.

    ``egress`` is held against where the URL leads, as for the tools of the settings file; ``timeout`` is in seconds.
    """
    return _fetched(place, timeout, egress) if "://" in place else _read(place)


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise NotFetched(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_BYTES:
        raise NotFetched(f"{path}: larger than {MAX_BYTES} bytes")
    return data


def _fetched(url: str, timeout: float, egress: EgressRules) -> bytes:
    """No redirect is followed, no proxy of the environment used; the time is for all of it, from the handshake to the
    last byte, however slowly they come.
    """
    pieces: list[bytes] = []
    size = 0
    deadline = Deadline(timeout)
    try:
        with (
            deadline,
            guarded_client(egress, local=True, timeout=timeout, connections=1, deadline=deadline) as client,
            client.stream(
                "GET", url, headers={"accept": "application/json", "accept-encoding": "identity"}
            ) as answer,
        ):
            if answer.status_code != 200:
                raise NotFetched(f"{url}: HTTP status {answer.status_code}")
            for piece in answer.iter_raw():
                size += len(piece)
                if size > MAX_BYTES:
                    raise NotFetched(f"{url}: larger than {MAX_BYTES} bytes")
                pieces.append(piece)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
        if deadline.over:
            raise NotFetched(f"{url}: not complete within {timeout:g} s") from error
        raise NotFetched(f"{url}: {type(error).__name__}") from error
    if deadline.over:  # the end that was read may be ours
        raise NotFetched(f"{url}: not complete within {timeout:g} s")
    return b"".join(pieces)
