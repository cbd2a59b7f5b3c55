"""The control plane of the Python API."""

from __future__ import annotations

import inspect
import threading

import pytest

from common.domain.errors import (
    InvalidRequest,
    InvocationCancelled,
    InvocationNotFound,
    SessionNotFound,
    ToolDisabled,
    ToolNotFound,
    VersionConflict,
)
from common.gateway import Gateway
from common.gateway.async_verbs import AsyncVerbs
from common.gateway.verbs import Verbs
from common.store.client import Client, StoreAddress
from tests.common.gateway.conftest import ECHO, ME, made
from tests.common.gateway.test_streams import CALL
from tests.support.fake_worker import FakeWorker
from tests.support.wait import wait_until

REMOTE = {"url": "https://tools.example.com/mcp", "headers": {"x-key": "secret"}}


def test_a_tool_is_registered_changed_and_removed(gateway: Gateway) -> None:
    """This process sees each change at once; the journal tells who made it."""
    added = gateway.register_tool("remote", REMOTE, actor="me")
    assert gateway.tools(ME).get("remote") is not None  # type: ignore[arg-type]
    assert gateway.register_tool("remote", REMOTE).entry.registered.version == added.entry.registered.version
    changed = gateway.update_tool("remote", {"request_timeout": 5}, actor="me")
    assert changed.entry.tool.request_timeout == 5
    assert changed.entry.tool.transport == added.entry.tool.transport
    assert [tool.entry.id for tool in gateway.list_tools()] == ["echo", "off", "remote", "slow"]
    gateway.remove_tool("remote", actor="me")
    assert gateway.tools(ME).get("remote") is None  # type: ignore[arg-type]
    told = gateway.audit(3, chosen=lambda record: record.fields.get("actor") == "me")
    assert [record.kind for record in told] == ["tool_removed", "tool_updated", "tool_registered"]


def test_what_may_not_be_registered_is_refused_by_name(gateway: Gateway) -> None:
    """The key at fault is named; so is a command that nobody has allowed."""
    with pytest.raises(InvalidRequest) as raised:
        gateway.register_tool("x", {"url": "https://a.example", "request_timeout": -1})
    assert raised.value.data["field"] == "request_timeout"
    with pytest.raises(InvalidRequest, match="allowed_commands"):
        gateway.register_tool("x", {"command": "rm"})
    with pytest.raises(InvalidRequest):
        gateway.update_tool(ECHO, {"enabled": False})


def test_a_change_at_another_version_is_refused(gateway: Gateway) -> None:
    """Nobody's change is lost."""
    version = gateway.register_tool("remote", REMOTE, expected=0).entry.registered.version
    with pytest.raises(VersionConflict):
        gateway.register_tool("remote", {"url": "https://b.example"}, expected=0)
    with pytest.raises(VersionConflict):
        gateway.update_tool("remote", {"request_timeout": 1}, expected=version - 1)
    with pytest.raises(VersionConflict):
        gateway.remove_tool("remote", expected=version - 1)


def test_a_tool_is_switched_and_drained(gateway: Gateway) -> None:
    """The next call of this process knows it."""
    assert gateway.disable_tool(ECHO).changed
    with pytest.raises(ToolDisabled):
        gateway.invoke(ME, ECHO, "tools/call", CALL).value()
    assert gateway.enable_tool(ECHO).changed
    gateway.drain_tool(ECHO)
    assert gateway.get_tool(ECHO).entry.draining
    assert gateway.wait_drained(ECHO, 1.0).done
    gateway.undrain_tool(ECHO)
    assert not gateway.get_tool(ECHO).entry.draining
    assert gateway.trip_circuit(ECHO, "maintenance") is not None
    assert gateway.reset_circuit(ECHO) is not None
    gateway.refresh_tool(ECHO)
    with pytest.raises(ToolNotFound):
        gateway.drain_tool("none")


def test_what_lives_is_listed_and_ended(gateway: Gateway, worker: FakeWorker) -> None:
    """Whoever names what is not there is told."""
    worker.behaviour = lambda call: None
    with gateway.invoke_stream(ME, ECHO, "tools/call", CALL) as stream:
        worker.next_call()
        assert gateway.calls() == []  # this worker keeps no books
        with pytest.raises(InvocationNotFound):
            gateway.cancel_call("none")
        stream.cancel()
        with pytest.raises(InvocationCancelled):
            stream.result().value()
    assert gateway.sessions() == []
    with pytest.raises(SessionNotFound):
        gateway.close_session(ECHO, "none")


def test_a_call_that_waits_is_seen_and_taken_back(client: Client, address: StoreAddress) -> None:
    """Nobody serves its queue."""
    with made(address) as gateway, gateway.invoke_stream(ME, ECHO, "tools/call", CALL):
        (call,) = gateway.calls(ECHO)
        assert (call.tenant, call.client, call.method) == (ME.tenant, ME.client, "tools/call")
        assert gateway.cancel_call(call.id, actor="me").id == call.id


def test_the_status_says_what_is_missing(gateway: Gateway) -> None:
    """There is no worker."""
    status = gateway.status()
    assert status.redis
    assert status.missing == ("no worker lives",)
    assert not gateway.wait_ready(0.05).ready


def test_the_journal_is_heard_from_now_on(gateway: Gateway) -> None:
    """What comes between the asking and the first look is not missed."""
    gateway.disable_tool(ECHO)
    records = gateway.subscribe(chosen=lambda record: record.fields.get("tool") == ECHO)
    gateway.enable_tool(ECHO)
    assert next(records).kind == "tool_enabled"


def test_hearing_the_journal_ends_with_the_gateway(client: Client, address: StoreAddress) -> None:
    """Within about a second."""
    heard: list[object] = []
    with made(address) as gateway:
        records = gateway.subscribe()
        thread = threading.Thread(target=lambda: heard.extend(records))
        thread.start()
        gateway.drain_tool(ECHO)
        wait_until(lambda: heard, description="something is heard")
    thread.join(5)
    assert not thread.is_alive()


def test_every_verb_has_a_twin() -> None:
    """With the same words."""
    verbs = {name for name, _ in inspect.getmembers(Verbs, inspect.isfunction) if name in vars(Verbs)}
    for name in verbs - {"subscribe"}:
        if not name.startswith("_"):
            twin = getattr(AsyncVerbs, "await_drained" if name == "wait_drained" else f"a{name}")
            assert twin.__doc__ == getattr(Verbs, name).__doc__
