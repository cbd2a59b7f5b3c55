"""A resolver's answer, judged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from common.domain.egress import Judge
from common.domain.networks import parsed

REFUSED = "the address may not be connected to (egress)"


def good_addresses(judge: Judge, host: str, found: Iterable[Any]) -> list[str]:
    """The addresses of an answer of ``getaddrinfo``, if all of them are good.

    Raises PermissionError (fails closed). The reason stays inside: it tells of our network.
    """
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if judge(host, map(parsed, addresses)) is not None:
        raise PermissionError(REFUSED)
    return addresses
