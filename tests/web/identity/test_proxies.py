"""Which peers are believed, and whom they speak for."""

from __future__ import annotations

import pytest

from common.settings import WebSettings
from gateway_web.identity.proxies import TrustedProxies

PROXIES = TrustedProxies(WebSettings(host="0.0.0.0", trusted_proxies=("10.0.0.0/8", "2001:db8::/32", "unix")))  # noqa: S104
NOBODY = TrustedProxies(WebSettings(host="0.0.0.0"))  # noqa: S104
LOCAL = TrustedProxies(WebSettings())


@pytest.mark.parametrize(
    ("proxies", "peer", "trusted"),
    [
        (PROXIES, "10.1.2.3", True),
        (PROXIES, "::ffff:10.1.2.3", True),
        (PROXIES, "2001:db8::1", True),
        (PROXIES, "", True),
        (PROXIES, "127.0.0.1", False),
        (PROXIES, "11.0.0.1", False),
        (PROXIES, "proxy.example", False),
        (NOBODY, "127.0.0.1", False),
        (NOBODY, "", False),
        (LOCAL, "127.0.0.1", True),
        (LOCAL, "::1", True),
        (LOCAL, "", True),
        (LOCAL, "10.0.0.1", False),
    ],
)
def test_trusted_peers(proxies: TrustedProxies, peer: str, trusted: bool) -> None:
    """By address; on a loopback address this machine, unless others are named."""
    assert proxies.trusts(peer) is trusted


@pytest.mark.parametrize(
    ("forwarded", "caller"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("1.1.1.1, 1.2.3.4", "1.2.3.4"),
        ("1.2.3.4, 10.0.0.2", "1.2.3.4"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("rubbish", "10.0.0.1"),
        ("1.2.3.4, rubbish, 10.0.0.2", "10.0.0.2"),
        ("", "10.0.0.1"),
        ("1.2.3.4:80", "10.0.0.1"),
        (", ".join(["10.0.0.9"] * 5000), "10.0.0.9"),
    ],
)
def test_whom_a_proxy_speaks_for(forwarded: str, caller: str) -> None:
    """The last address that is no proxy of ours: what stands before it, its sender has made up."""
    assert PROXIES.client("10.0.0.1", forwarded) == caller
