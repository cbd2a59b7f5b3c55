"""C18: the client leaves in the middle of a call. The backend hears of it within a second, and the slot is free."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial

import httpx
import pytest

from tests.chaos.load import Call
from tests.chaos.mixes import PLAIN, WEB, everyday
from tests.chaos.plan import Plan, ToolPlan
from tests.chaos.scene import Scene
from tests.support.mcp import RawClient
from tests.support.wait import wait_until

pytestmark = [pytest.mark.chaos_fast, pytest.mark.timeout(150)]
TOOLS = (PLAIN, WEB)
HEARD_WITHIN = 1.0


class Leaver:
    """A legacy client of one tool with a call that would take long."""

    def __init__(self, scene: Scene, tool: ToolPlan, name: str) -> None:
        place = scene.cluster.places[0]
        headers = {"x-tenant-id": "acme", "x-client-id": name}
        self._name = name
        self._scene = scene
        self._client = RawClient(f"http://{place.host}:{place.port}/servers/{tool.name}/mcp", headers=headers)
        assert self._client.open().status_code == 200
        arguments = {"call": name, "tenant": "acme", "client": name, "era": "legacy", "ms": 20_000}
        self._message = self._client.message("tools/call", {"name": "act", "arguments": arguments})
        self._headers = self._client.sent_headers("tools/call", self._message["params"])
        scene.note_sent(name, tool=tool.name, client=name, deadline=tool.deadline)
        self._thread = threading.Thread(target=self._post)
        self._thread.start()

    def _post(self) -> None:
        with contextlib.suppress(httpx.TransportError):
            httpx.post(self._client.url, json=self._message, headers=self._headers, timeout=30)
        self._scene.note_left(self._name)

    def cancel(self) -> None:
        """Take the call back by ``notifications/cancelled``."""
        params = {"requestId": self._message["id"], "reason": "changed my mind"}
        notice = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        assert httpx.post(self._client.url, json=notice, headers=self._headers).status_code == 202

    def end_session(self) -> None:
        """End the MCP session by DELETE."""
        assert httpx.delete(self._client.url, headers=self._headers).status_code in (200, 204)

    def close(self) -> None:
        """Wait for the end of the call."""
        self._thread.join(30)
        assert not self._thread.is_alive()


def free(scene: Scene) -> bool:
    """Whether no worker holds a call."""
    with scene.cluster.client() as client:
        return not sum(client.hlen(key) for key in client.scan_iter("canalgate:unacked:*"))


def heard(scene: Scene, call: str, leave: Callable[[], object]) -> None:
    """Leave once the backend has the call, and look how soon it hears of that."""
    wait_until(lambda: scene.backend_events("got", call), description="the backend to get the call")
    leave()
    left = time.monotonic()
    wait_until(
        lambda: scene.backend_events("cancelled", call), timeout=5, description="the backend to hear of it"
    )
    told = scene.backend_events("cancelled", call)[0]["at"] - left
    wait_until(lambda: free(scene), timeout=5, description="the slot to be free")
    assert told < HEARD_WITHIN, f"the backend heard of it after {told:.2f} s"
    assert time.monotonic() - left < 2 * HEARD_WITHIN


def test_clients_leave(scene: Scene) -> None:
    """By hanging up, a reset, a notification, the end of the session; at a child and over HTTP; and by the dozen."""
    scene.start(Plan(tools=TOOLS))
    for tool in TOOLS:
        assert scene.load.call(Call(tool=tool.name)).good
        for reset in (False, True):
            name = f"{tool.name}-{'reset' if reset else 'closed'}"
            waiting = scene.load.begin(Call(tool=tool.name, id=name, ms=20_000, leave_after=1.5, reset=reset))
            heard(scene, name, partial(waiting.result, 5))
    many_leave(scene)
    for how in ("cancel", "end_session"):
        for tool in TOOLS:
            leaver = Leaver(scene, tool, f"{tool.name}-{how}")
            try:
                heard(scene, f"{tool.name}-{how}", getattr(leaver, how))
            finally:
                leaver.close()
    scene.judge(quiet=10)
    scene.expect_codes("left")


def many_leave(scene: Scene) -> None:
    """A hundred callers who go away in the middle take nobody's answer with them."""
    scene.load.run(everyday(TOOLS), rate=15)
    for number in range(100):
        away = 0.05 + (number % 10) / 20
        call = Call(tool=TOOLS[number % 2].name, client="l", ms=5000, leave_after=away, reset=number % 3 == 0)
        scene.load.begin(call)
        if number % 10 == 9:
            scene.answered_more(5)
    scene.load.finish()
    wait_until(lambda: free(scene), description="all slots to be free")
