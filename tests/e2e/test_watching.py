"""Resources that clients watch: each is told, wherever it listens, whatever either side speaks; and nobody else."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest

from tests.support.mcp import RawClient, legacy, modern
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
META = "io.modelcontextprotocol/"
ERAS = ("legacy", "modern")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A backend of each era; two web processes and two workers."""
    command, *args = server_command("inquirer")
    tools = {era: {"command": command, "args": [*args, era], "idle_timeout": 1} for era in ERAS}
    settings = {"web": {"processes": 2, "ping_interval": 0.5}, "worker": {"processes": 2}}
    directory: Path = tmp_path_factory.mktemp("watching")
    with running_gateway(tools, directory=directory, settings=settings) as found:
        yield found


class Heard:
    """The messages of an open stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.messages: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, args=(response,), daemon=True)
        self._thread.start()

    def _read(self, response: httpx.Response) -> None:
        try:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    self.messages.append(orjson.loads(line.removeprefix("data: ")))
        except httpx.HTTPError:
            pass

    def updates(self) -> list[str]:
        """The URIs of the updates so far."""
        return [
            m["params"]["uri"] for m in self.messages if m.get("method", "").endswith("resources/updated")
        ]


@contextmanager
def standing(client: RawClient) -> Iterator[Heard]:
    """The GET stream of a legacy client."""
    headers = {**client.sent_headers("", {}), "accept": "text/event-stream"}
    with httpx.Client(timeout=30) as http, http.stream("GET", client.url, headers=headers) as response:
        assert response.status_code == 200
        yield Heard(response)


@contextmanager
def listening(client: RawClient, *uris: str) -> Iterator[Heard]:
    """A subscription of a modern client, acknowledged."""
    message = client.message("subscriptions/listen", {"notifications": {"resourceSubscriptions": list(uris)}})
    headers = client.sent_headers(message["method"], message["params"])
    with (
        httpx.Client(timeout=30) as http,
        http.stream("POST", client.url, json=message, headers=headers) as response,
    ):
        heard = Heard(response)
        wait_until(lambda: heard.messages, description="the acknowledgement")
        assert heard.messages[0]["params"]["notifications"] == {"resourceSubscriptions": list(uris)}
        yield heard


def subscribe(client: RawClient, uri: str, *, wanted: bool = True) -> None:
    """Watch a resource, or no longer."""
    method = "resources/subscribe" if wanted else "resources/unsubscribe"
    assert client.post(method, {"uri": uri}).json()["result"] == {}


@pytest.mark.parametrize("backend", ERAS)
def test_a_legacy_client_is_told(gateway: RunningGateway, backend: str) -> None:
    """On its GET stream, as long as it wants to be; another session of the same client is not."""
    client, other = legacy(f"{gateway.url}/mcp"), legacy(f"{gateway.url}/mcp")
    uri = f"note://{backend}"
    with standing(client) as heard, standing(other) as overheard:
        subscribe(client, uri)
        client.call(f"{backend}__touch", {"uri": uri})
        wait_until(lambda: heard.updates() == [uri], description="the update")
        subscribe(client, uri, wanted=False)
        client.call(f"{backend}__touch", {"uri": uri})
        subscribe(client, uri)
        client.call(f"{backend}__touch", {"uri": uri})
        wait_until(lambda: heard.updates() == [uri, uri], description="the second, and no third")
        assert overheard.updates() == []
        subscribe(client, uri, wanted=False)


@pytest.mark.parametrize("backend", ERAS)
def test_a_modern_client_is_told(gateway: RunningGateway, backend: str) -> None:
    """On the stream of its subscription; behind its end the backend is asked for nothing any more."""
    client = modern(f"{gateway.url}/servers/{backend}/mcp")
    uri = "any://thing"
    with listening(client, uri) as heard:
        client.call("touch", {"uri": uri})
        wait_until(lambda: heard.updates() == [uri], description="the update")
        (update,) = [m for m in heard.messages if m["method"].endswith("updated")]
        assert META + "subscriptionId" in update["params"]["_meta"]


def test_who_watches_is_told_also_after_its_tools_session_died(gateway: RunningGateway) -> None:
    """The next one takes the watches up, in whichever worker; and one that is watched is never idle."""
    client = legacy(f"{gateway.url}/mcp")
    with standing(client) as heard:
        subscribe(client, "note://legacy")
        children = [
            process
            for process in psutil.process_iter(["cmdline"])
            if any("inquirer.py" in word for word in process.info["cmdline"] or ())
            and "legacy" in (process.info["cmdline"] or ())
        ]
        assert children
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
        psutil.wait_procs(children, timeout=5)
        wait_until(lambda: "note://legacy" in client.text("legacy__heard"), description="taken up")
        client.call("legacy__touch", {"uri": "note://legacy"})
        wait_until(lambda: heard.updates() == ["note://legacy"], description="the update")
