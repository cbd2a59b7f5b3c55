"""Whatever a URL looks like, no connection leads where it may not: seen at ``socket.connect``, not at the checker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
import requests

from common.domain.egress import STRICT, EgressRules
from common.domain.errors import InvalidRequest
from common.domain.ids import ToolId
from common.domain.tool import HttpTransport, Tool
from common.egress.client import guarded_async_client, guarded_client
from common.egress.session import guarded_session
from gateway_worker.egress.http_pool import HttpClient
from gateway_worker.egress.link import LinkLost
from tests.support.aio import on_loop
from tests.support.connects import connects
from tests.support.servers.raw_http import RawConnection, raw_server

pytestmark = pytest.mark.security

NUMERIC = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://0x7f.0x0.0x0.0x1/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://0177.0000.0000.0001/",
    "http://127.0.0.1./",
    "http://127.0.0.1:80/",
    "http://127.255.255.254/",
    "http://user@127.0.0.1/",
    "http://example.com@127.0.0.1/",
    "http://example.com:80@127.0.0.1/",
    "http://127.0.0.1#@example.com/",
    "http://127.0.0.1?@example.com/",
    "http://127.0.0.1\\@example.com/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[0:0:0:0:0:ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[::7f00:1]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b::169.254.169.254]/",
    "http://[64:ff9b:1::a00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/",
    "http://[::]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25lo]/",
    "http://[fec0::1]/",
    "http://[fd00::1]/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[fd20:ce::254]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://0/",
    "http://0.0.0.0/",
    "http://0.0.0.0:8080/",
    "http://10.0.0.1/",
    "http://10.255.255.255/",
    "http://012.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.254/",
    "http://192.168.0.1/",
    "http://3232235521/",
    "http://100.64.0.1/",
    "http://100.100.100.200/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "http://2852039166/latest/meta-data/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.170.2/v2/credentials",
    "http://168.63.129.16/machine",
    "http://192.0.0.192/",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
]
NAMES = [
    "http://localhost/",
    "http://localhost./",
    "http://LOCALHOST/",
    "http://ⓛocalhost/",
    "http://127。0。0。1/",
    "http://metadata.google.internal/",
    "http://127.0.0.1.nip.example/",
    "http://both.example/",
    "http://both6.example/",
    "http://nat64.example/",
]
ANSWERS = {
    "localhost": ["127.0.0.1", "::1"],
    "metadata.google.internal": ["169.254.169.254"],
    "127.0.0.1.nip.example": ["127.0.0.1"],
    "both.example": ["93.184.216.34", "10.0.0.1"],
    "both6.example": ["2606:2800:220:1::1", "fd00::1"],
    "nat64.example": ["64:ff9b::a9fe:a9fe"],
}
NO_HTTP = [
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_SET%20a%20b",
    "dict://127.0.0.1:6379/info",
    "ftp://127.0.0.1/",
    "ldap://127.0.0.1/",
    "unix:///run/docker.sock",
    "jar:http://127.0.0.1!/",
    "//127.0.0.1/",
    "javascript:alert(1)",
    "data:text/plain,x",
]


@dataclass
class Resolver:
    """Answers for the names of a test, in turn; numbers go to the real one."""

    answers: dict[str, list[list[str]]]
    asked: list[str] = field(default_factory=list)

    def __call__(
        self,
        host: Any,
        port: Any,
        family: int = 0,
        type: int = 0,  # noqa: A002 - as in socket
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        found = self.answers.get(str(name).lower().rstrip("."))
        if found is None or flags & socket.AI_NUMERICHOST:
            return _REAL(host, port, family, type, proto, flags | socket.AI_NUMERICHOST)
        self.asked.append(str(name))
        addresses = found.pop(0) if len(found) > 1 else found[0]
        return [_entry(address, port) for address in addresses]


_REAL = socket.getaddrinfo


def _entry(address: str, port: int) -> Any:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """In the place of the system's."""
    made = Resolver({name: [addresses] for name, addresses in ANSWERS.items()})
    monkeypatch.setattr(socket, "getaddrinfo", made)
    return made


Ask = Callable[[str, EgressRules], None]


def by_link(url: str, rules: EgressRules) -> None:
    """The way of calls to backends."""

    @on_loop
    async def scenario() -> None:
        judge = partial(rules.refusal, local=False)
        client = HttpClient(url, {}, connect_timeout=2.0, judge=judge)
        try:
            async with asyncio.timeout(3):
                with await client.send("POST", client.fields, b"{}"):
                    pass
        finally:
            client.close()

    scenario()


def by_httpx(url: str, rules: EgressRules) -> None:
    """The way of everything else that is blocking."""
    with guarded_client(rules, local=False, timeout=2.0) as client:
        client.post(url, json={})


def by_async_httpx(url: str, rules: EgressRules) -> None:
    """The same for asyncio."""

    @on_loop
    async def scenario() -> None:
        async with guarded_async_client(rules, local=False, timeout=2.0) as client:
            await client.post(url, json={})

    scenario()


def by_session(url: str, rules: EgressRules) -> None:
    """The way of libraries that speak by requests."""
    with guarded_session(rules, local=False) as session:
        session.post(url, json={}, timeout=2.0)


WAYS = [by_link, by_httpx, by_async_httpx, by_session]
REFUSALS = (LinkLost, httpx.HTTPError, httpx.InvalidURL, requests.RequestException)


def test_the_table_is_long_enough() -> None:
    """Sixty and more."""
    assert len(NUMERIC) + len(NAMES) + len(NO_HTTP) >= 60


@pytest.mark.parametrize("ask", WAYS, ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("url", [*NUMERIC, *NAMES, *NO_HTTP])
def test_nothing_is_connected_to(resolver: Resolver, url: str, ask: Ask) -> None:
    """Not one connection is begun."""
    with connects() as seen, pytest.raises(REFUSALS):
        ask(url, STRICT)
    assert seen == []


@pytest.mark.parametrize("url", [*NUMERIC, *NO_HTTP])
def test_a_literal_address_is_no_tool_of_run_time(url: str) -> None:
    """Where the URL says so itself; other spellings of an address are found when it is connected to."""
    try:
        STRICT.check_runtime(Tool(id=ToolId("t"), transport=HttpTransport(url=url)))
    except InvalidRequest:
        return
    assert url in NUMERIC
    with connects() as seen, pytest.raises(LinkLost):
        by_link(url, STRICT)
    assert seen == []


def _allowing(address: str) -> EgressRules:
    return EgressRules(allowed_networks=(ip_network(address),))


@pytest.mark.parametrize("ask", WAYS, ids=lambda ask: ask.__name__)
def test_the_address_that_was_judged_is_the_one_that_is_dialled(resolver: Resolver, ask: Ask) -> None:
    """A resolver that answers public at first and private then: the second answer is never asked for."""
    resolver.answers["rebind.example"] = [["127.0.0.2"], ["127.0.0.1"]]
    with connects() as seen, pytest.raises(REFUSALS):
        # 127.0.0.2 plays the public address: it is the one that is allowed, and nobody listens there.
        ask("http://rebind.example:9/", _allowing("127.0.0.2"))
    assert seen == ["127.0.0.2"]
    assert resolver.asked == ["rebind.example"]


@pytest.mark.parametrize("ask", WAYS, ids=lambda ask: ask.__name__)
def test_each_new_connection_is_judged_anew(resolver: Resolver, ask: Ask) -> None:
    """Yesterday's good answer opens nothing today."""
    resolver.answers["rebind.example"] = [["127.0.0.2"], ["127.0.0.1"]]
    with connects() as seen:
        for _ in range(2):
            with pytest.raises(REFUSALS):
                ask("http://rebind.example:9/", _allowing("127.0.0.2"))
    assert seen == ["127.0.0.2"]
    assert len(resolver.asked) == 2


def test_no_redirect_is_followed_and_none_would_lead_inside(resolver: Resolver) -> None:
    """To a backend a redirect is an error; by httpx it is the answer, and even a caller who follows stays outside."""
    target = "http://127.0.0.1:1/secret"

    async def redirect(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(
            f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
        )

    @on_loop
    async def scenario() -> None:
        async with raw_server(redirect, host="127.0.0.2") as server:
            rules = _allowing("127.0.0.2")
            client = HttpClient(server.url, {}, connect_timeout=2, judge=partial(rules.refusal, local=False))
            with connects() as seen:
                with await client.send("POST", client.fields, b"{}") as response:
                    assert response.status == 302
                client.close()
                async with guarded_async_client(rules, local=False) as web:
                    assert (await web.get(server.url)).status_code == 302
                    with pytest.raises(httpx.ConnectError):
                        await web.get(server.url, follow_redirects=True)
            assert set(seen) == {"127.0.0.2"}

    scenario()


@pytest.mark.parametrize("ask", WAYS, ids=lambda ask: ask.__name__)
def test_proxies_of_the_environment_are_not_used(
    resolver: Resolver, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through one, everything would be reached that it reaches."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.3:9")
    with connects() as seen, pytest.raises(REFUSALS):
        ask("http://127.0.0.2:9/", _allowing("127.0.0.0/8"))
    assert seen == ["127.0.0.2"]
