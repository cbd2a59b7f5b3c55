"""One gateway whose every way is encrypted: clients, Redis (with certificates on both sides), and a backend."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from socket import SHUT_RDWR
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
from celery import Celery
from simple_websocket import Client

from common.settings import load
from common.store.client import address_of
from tests.support.backends import echo_backend
from tests.support.certificates import Authority, client_context, server_context
from tests.support.mcp import RawClient
from tests.support.redis import running_redis
from tests.support.servers.gateway import RunningGateway, gateway_command, running_gateway
from tests.support.servers.process import running
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until

pytestmark = pytest.mark.e2e


@dataclass
class Encrypted:
    """The gateway, and whom it and its clients trust."""

    gateway: RunningGateway
    ca: Authority
    redis: TcpProxy

    @property
    def context(self) -> ssl.SSLContext:
        return client_context(self.ca.file)

    def client(self, tool: str, *, modern: bool = True) -> RawClient:
        return RawClient(self.gateway.tool_url(tool), modern=modern, verify=self.context)


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    """``canalgate up`` with all of it."""
    directory = tmp_path_factory.mktemp("tls")
    ca = Authority(directory / "ca")
    mine = ca.issue("gateway", usage="client")
    server = ca.issue("localhost", "127.0.0.1")
    mutual = server_context(server, client_ca=ca.file)
    with ExitStack() as stack:
        redis = stack.enter_context(TcpProxy(stack.enter_context(running_redis()).socket, tls=mutual))
        backend = stack.enter_context(echo_backend("both"))
        port = urlsplit(backend.url).port
        assert port is not None
        secure = stack.enter_context(TcpProxy(port, tls=mutual))
        shown = {"tls_ca_file": str(ca.file), "tls_cert_file": str(mine.cert), "tls_key_file": str(mine.key)}
        settings = {
            "redis": {"url": redis.url, "tls_min_version": "1.3", **shown},
            "web": {
                "tls_cert_file": str(server.cert),
                "tls_key_file": str(server.key),
                "tls_client_auth": "optional",
                "tls_client_ca_file": str(ca.file),
                "stateless": False,
            },
            "identity": {
                "resolver": ["mtls", "none"],
                "mtls": {"form": "listener", "tenant_attribute": "O"},
            },
            "tenants": {"allow_unlisted": True},
            "policy": {"rules": [{"effect": "deny", "tenants": ["default"], "tools": ["theirs"]}]},
        }
        there = {"url": f"https://localhost:{secure.port}/mcp", **shown}
        tools = {"remote": there, "theirs": there}
        gateway = stack.enter_context(
            running_gateway(tools, directory=directory / "g", settings=settings, trust=ca.file)
        )
        yield Encrypted(gateway, ca, redis)


def test_a_call_goes_all_the_way(encrypted: Encrypted) -> None:
    """In both eras, small and large, over kept connections and new ones."""
    modern, legacy = encrypted.client("remote"), encrypted.client("remote", modern=False)
    assert legacy.open().status_code == 200
    for text in ("x", "y" * 200_000):
        assert modern.text("echo", {"text": text}) == text
        assert legacy.text("echo", {"text": text}) == text
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{encrypted.gateway.url}/readyz", timeout=5)  # the system does not know the authority


def test_event_streams_come_over_tls(encrypted: Encrypted) -> None:
    """The older transport's stream, and its answers."""
    with (
        httpx.Client(verify=encrypted.context, timeout=20) as http,
        http.stream("GET", f"{encrypted.gateway.url}/servers/remote/sse") as stream,
    ):
        lines = stream.iter_lines()
        place = next(line for line in lines if line.startswith("data: ")).removeprefix("data: ")
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        assert http.post(httpx.URL(encrypted.gateway.url).join(place), json=ping).status_code == 202
        answer = next(line for line in lines if line.startswith("data: "))
        assert orjson.loads(answer.removeprefix("data: "))["result"] == {}


def test_websockets_come_over_tls(encrypted: Encrypted) -> None:
    """Also messages larger than what is decrypted at a time: none waits for the next one."""
    url = encrypted.gateway.tool_url("remote").replace("https:", "wss:").removesuffix("/mcp") + "/ws"
    socket = Client(url, subprotocols=["mcp"], ssl_context=encrypted.context)
    try:
        for number in range(1, 6):
            params = {"_meta": {"x": "p" * (number * 7001)}}
            message = {"jsonrpc": "2.0", "id": number, "method": "ping", "params": params}
            socket.send(orjson.dumps(message).decode())
            answer = orjson.loads(socket.receive(timeout=5) or "null")
            assert (answer["id"], answer["result"]) == (number, {})
    finally:
        hang_up(socket)


def hang_up(client: Client) -> None:
    """End a connection, and then close its socket: its thread must not read on what has the same number next."""
    client.sock.shutdown(SHUT_RDWR)
    client.thread.join(5)
    client.sock.close()


def test_a_client_s_certificate_says_who_calls(encrypted: Encrypted) -> None:
    """At every door; headers that say the same are nobody's."""
    mine = encrypted.ca.issue("alice", usage="client", organisation="Acme, Inc.")
    forged = dict.fromkeys(("CANALGATE_TLS_SUBJECT", "X-Forwarded-Client-Cert"), "CN=alice,O=Acme")
    forged["CANALGATE-TLS-SUBJECT"] = "CN=alice,O=Acme"
    url = encrypted.gateway.tool_url("theirs")
    for modern in (True, False):
        known = RawClient(url, modern=modern, verify=client_context(encrypted.ca.file, mine), headers=forged)
        assert modern or known.open().status_code == 200
        assert known.text("echo", {"text": "x"}) == "x"
        unknown = RawClient(url, modern=modern, verify=encrypted.context, headers=forged)
        refused = unknown.post("tools/list", {}) if modern else unknown.open()
        assert refused.json()["error"]["data"]["code"] == "TOOL_NOT_FOUND", refused.text
    base = url.removesuffix("/mcp")
    for certificate, status in ((mine, 200), (None, 404)):
        context = client_context(encrypted.ca.file, certificate)
        with httpx.Client(verify=context) as http, http.stream("GET", f"{base}/sse", headers=forged) as sse:
            assert sse.status_code == status
    address = base.replace("https:", "wss:") + "/ws"
    opened = Client(address, subprotocols=["mcp"], ssl_context=client_context(encrypted.ca.file, mine))
    hang_up(opened)
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", **forged}
    upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    assert httpx.get(f"{base}/ws", headers=upgrade, verify=encrypted.context).status_code == 404


def test_stock_celery_reaches_the_workers(encrypted: Encrypted) -> None:
    """With what our own app is told: control over the broker, and results."""
    address = address_of(load(encrypted.gateway.config, {}).redis)
    app = Celery(broker=address.celery_url, backend=address.celery_url)
    app.conf.update(broker_use_ssl=address.celery_tls, redis_backend_use_ssl=address.celery_tls)
    # The worker may be on its way back to Redis: a test before this one may have cut its connections.
    wait_until(lambda: app.control.ping(timeout=1), timeout=20, description="a worker's word")
    payload = {"tenant": "default", "client": "stock", "tool": "remote", "method": "tools/call"}
    params = {"name": "echo", "arguments": {"text": "hi"}}
    sent = app.send_task("gateway.invoke", args=[{**payload, "params": params}], queue="tool.remote")
    result = sent.get(timeout=20)
    assert "hi" in str(result)
    app.close()


def test_a_broken_way_to_redis_heals(encrypted: Encrypted) -> None:
    """Every connection is made anew, with its handshake."""
    encrypted.redis.cut()
    client = encrypted.client("remote")
    wait_until(lambda: "result" in client.call("echo", {"text": "x"}), timeout=20, description="calls again")


def test_the_command_line_knows_its_own_gateway(encrypted: Encrypted, tmp_path: Path) -> None:
    """By the certificate in the settings, and trusts nothing else."""
    state = encrypted.gateway.config.parent / "state"
    env = {"CANALGATE_STATE_DIR": str(state), "CANALGATE_CONFIG": str(encrypted.gateway.config)}
    command = [*gateway_command(), "call", "remote", "echo", "text=hello"]
    with running(command, log=tmp_path / "log", env=env, remove="CANALGATE_") as process:
        process.popen.wait(30)
    assert "hello" in (tmp_path / "log").read_text()
