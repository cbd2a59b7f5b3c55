"""Which peers are proxies of the operator's own, and whom such a one speaks for."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from common.settings import WebSettings
from common.settings.fields import UNIX, is_loopback

LOOPBACK = ("127.0.0.0/8", "::1/128", UNIX)
MOST_HOPS = 20


class TrustedProxies:
    """Peers whose headers on the caller are believed: those of ``web.trusted_proxies``.

    Without any, a gateway on a loopback address believes this machine: nobody else reaches it. A Unix socket has no
    address; whoever may open its file is let through if ``unix`` is on the list.
    """

    def __init__(self, web: WebSettings) -> None:
        named = web.trusted_proxies or (LOOPBACK if is_loopback(web.host) else ())
        self._unix = UNIX in named
        self._networks = [ipaddress.ip_network(name) for name in named if name != UNIX]
        self.trusts = lru_cache(maxsize=4096)(self._trusts)

    def _trusts(self, address: str) -> bool:
        """Whether the peer at an address is one of them."""
        if not address:
            return self._unix
        found = _parsed(address)
        return found is not None and any(found in network for network in self._networks)

    def client(self, peer: str, forwarded: str) -> str:
        """The caller's address in ``X-Forwarded-For`` of a trusted peer: the last one that is no trusted proxy.

        What stands further left was said by that one, and may be anything.
        """
        found = peer
        for hop in reversed(forwarded.split(",")[-MOST_HOPS:]):
            if _parsed(hop.strip()) is None:
                return found
            found = hop.strip()
            if not self.trusts(found):
                return found
        return found


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
