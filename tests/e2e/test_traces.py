"""One trace from the client to the backend, whichever way a call takes; what a real collector is sent."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.mcp import MODERN, RawClient, legacy, modern
from tests.support.otlp_collector import Collector, SpanSeen, collector
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import running_http, server_command
from tests.support.wait import wait_until
from tests.web.harness import META_FIELDS
from tests.web.peers import DOORS, SsePeer, Talk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
SECRET = "a-secret-argument"
_numbers = itertools.count(1)


def context() -> tuple[str, str]:
    """A fresh traceparent of a client, and its trace id."""
    trace = f"{os.getpid():08x}{next(_numbers):024x}"
    return f"00-{trace}-00000000000000aa-01", trace


def warm(tool: str) -> list[str]:
    """The spans of a call whose session had been started before."""
    return ["tools/call echo", f"send tool.{tool}", f"process tool.{tool}", "tools/call echo"]


class Rig:
    """A gateway that is traced, the collector, and what its backends were sent."""

    def __init__(self, gateway: RunningGateway, found: Collector, directory: Path) -> None:
        self.gateway = gateway
        self.collector = found
        self._directory = directory

    def trace(self, trace_id: str, *names: str) -> list[SpanSeen]:
        """A trace of these spans and no other, parents before children, once all have come."""
        wait_until(
            lambda: len(self.collector.trace(trace_id)) >= len(names), timeout=15, description=f"{names}"
        )
        found = self.collector.trace(trace_id)
        assert [span.name for span in found] == list(names)
        return found

    def by_kind(self, trace_id: str) -> dict[str, SpanSeen]:
        """The newest span of each kind, once there is one of each that every call has."""

        def found() -> dict[str, SpanSeen]:
            return {span.kind: span for span in self.collector.trace(trace_id)}

        kinds = {"server", "producer", "consumer", "client"}
        wait_until(lambda: kinds <= found().keys(), timeout=15, description="a span of each kind")
        return found()

    def sent_on(self, tool: str, trace_id: str) -> list[dict[str, Any]]:
        """The calls of this trace that a backend was sent."""
        entries = map(orjson.loads, (self._directory / f"{tool}.jsonl").read_bytes().splitlines())
        calls = [entry for entry in entries if entry.get("received", {}).get("method") == "tools/call"]
        return [entry for entry in calls if trace_id in str(entry)]

    def logged(self, program: str, **facts: Any) -> list[dict[str, Any]]:
        """The lines of a program's log with these facts."""
        lines = (self._directory / "state" / "logs" / f"{program}.log").read_bytes().splitlines()
        entries = [orjson.loads(line) for line in lines if line.startswith(b"{")]
        return [entry for entry in entries if facts.items() <= entry.items()]


@contextmanager
def traced(directory: Path, found: Collector, telemetry: Mapping[str, Any], **env: str) -> Iterator[Rig]:
    """``canalgate up``, traced, with backends that write down what they are sent."""
    echo, local = server_command("echo"), {"ECHO_LOG": str(directory / "local.jsonl")}
    stdio = {"command": echo[0], "args": echo[1:]}
    written = {"ECHO_LOG": str(directory / "remote.jsonl")}
    settings = {
        "telemetry": dict(telemetry),
        "logging": {"format": "json", "level": "debug"},
        "web": {"ping_interval": 1},  # a connection whose client has gone is noticed at the next ping
    }
    with running_http("echo_http", log=directory / "echo.log", env=written) as remote:
        tools = {
            "local": {**stdio, "env": local},
            "remote": {"url": remote},
            "brief": {**stdio, "request_timeout": 1},
            "again": {**stdio, "retry": "safe"},
            "own": {**stdio, "affinity": "mcp_session"},
        }
        env = {"OTEL_BSP_SCHEDULE_DELAY": "50", **env}
        with running_gateway(tools, directory=directory, settings=settings, env=env) as gateway:
            yield Rig(gateway, found, directory)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One gateway for all combinations."""
    with collector() as found:
        telemetry = {"exporter": "otlp_http", "endpoint": found.http_url, "headers": "x-org=acme"}
        with traced(tmp_path_factory.mktemp("tr"), found, telemetry) as rig:
            yield rig


def by_http(open_client: Callable[[str], RawClient]) -> Callable[..., None]:
    def call(gateway: RunningGateway, tool: str, params: dict[str, Any]) -> None:
        answer = open_client(gateway.tool_url(tool)).post("tools/call", params)
        assert answer.status_code == 200, answer.text

    return call


def by_connection(door: str, *, is_modern: bool) -> Callable[..., None]:
    def call(gateway: RunningGateway, tool: str, params: dict[str, Any]) -> None:
        peer = DOORS[door](f"localhost:{gateway.port}", tool)
        talk = Talk(peer)
        try:
            if is_modern:
                meta = {**META_FIELDS, **params["_meta"]}
                talk.send(
                    {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {**params, "_meta": meta}}
                )
            else:
                talk.initialize()
                talk.ask("tools/call", params, 7)
            assert "result" in talk.next()
        finally:
            peer.close()

    return call


INGRESS = {
    "http-legacy": by_http(legacy),
    "http-modern": by_http(modern),
    "sse-legacy": by_connection("sse", is_modern=False),
    "sse-modern": by_connection("sse", is_modern=True),
    "websocket-legacy": by_connection("websocket", is_modern=False),
    "websocket-modern": by_connection("websocket", is_modern=True),
}


@pytest.mark.parametrize("tool", ["local", "remote"])
@pytest.mark.parametrize("ingress", INGRESS)
def test_one_connected_trace(rig: Rig, ingress: str, tool: str) -> None:
    """From the context in the client's ``_meta``: request, admission, queue, exchange; and it reaches the backend."""
    parent, trace_id = context()
    params = {
        "name": "echo",
        "arguments": {"text": f"{SECRET} {trace_id}"},
        "_meta": {"traceparent": parent, "tracestate": "vendor=1"},
    }
    # A first call, untraced, starts the session of this client: the trace below is that of a warm one.
    INGRESS[ingress](rig.gateway, tool, {**params, "_meta": {"traceparent": parent[:-2] + "00"}})
    INGRESS[ingress](rig.gateway, tool, params)
    server, send, process, client = rig.trace(trace_id, *warm(tool))
    assert [span.kind for span in (server, send, process, client)] == [
        "server",
        "producer",
        "consumer",
        "client",
    ]
    assert server.parent == "00000000000000aa"
    assert (send.parent, process.parent, client.parent) == (server.id, send.id, process.id)
    assert {span.state for span in (server, send, process, client)} == {"vendor=1"}
    assert server.resource["service.name"] == send.resource["service.name"] == "canalgate-web"
    assert process.resource["service.name"] == client.resource["service.name"] == "canalgate-worker"
    assert server.name == client.name == "tools/call echo"
    told = server.attributes
    assert told["mcp.method.name"] == "tools/call"
    assert told["gen_ai.operation.name"] == "execute_tool"
    assert told["gen_ai.tool.name"] == "echo"
    assert told["jsonrpc.request.id"]
    assert told["network.transport"] == "tcp"
    assert told["network.protocol.name"] == ("websocket" if ingress.startswith("websocket") else "http")
    assert told["mcp.protocol.version"] == (
        MODERN if ingress.endswith("modern") else told["mcp.protocol.version"]
    )
    assert ("mcp.session.id" in told) is ingress.endswith("legacy")
    assert told["canalgate.invocation"] == process.attributes["messaging.message.id"]
    assert process.attributes["messaging.destination.name"] == f"tool.{tool}"
    assert process.attributes["canalgate.queue_wait_ms"] >= 0
    assert client.attributes["network.transport"] == ("pipe" if tool == "local" else "tcp")
    assert not any(span.failed for span in (server, send, process, client))
    (got,) = (entry for entry in rig.sent_on(tool, trace_id) if client.id in str(entry))
    meta, headers = got["received"]["params"]["_meta"], got.get("headers", {})
    sent = {"traceparent": f"00-{trace_id}-{client.id}-01", "tracestate": "vendor=1"}
    assert {name: meta[name] for name in sent} == sent
    assert {name: headers.get(name) for name in sent} == (sent if tool == "remote" else dict.fromkeys(sent))


@pytest.mark.parametrize("door", ["http", "sse"])
def test_a_trace_that_began_in_the_http_header(rig: Rig, door: str) -> None:
    """Of the request itself; for HTTP+SSE of the POST, whose answer comes on another connection."""
    parent, trace_id = context()
    params = {"name": "echo", "arguments": {"text": "x"}}
    around = {"traceparent": parent, "baggage": f"user={SECRET}"}
    if door == "http":
        client = legacy(rig.gateway.tool_url("local"))
        client.text("echo", {"text": "warm"})
        client.headers |= around
        assert client.post("tools/call", params).status_code == 200
    else:
        peer = SsePeer(f"localhost:{rig.gateway.port}", "local")
        talk = Talk(peer)
        talk.initialize()
        assert "result" in talk.answer("tools/call", params, 6)
        message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
        assert peer.post(orjson.dumps(message), **around).status_code == 202
        assert "result" in talk.next()
        peer.close()
    server, _, _, sent = rig.trace(trace_id, *warm("local"))
    assert server.parent == "00000000000000aa"
    (got,) = rig.sent_on("local", trace_id)
    assert got["received"]["params"]["_meta"]["traceparent"] == f"00-{trace_id}-{sent.id}-01"
    assert SECRET not in str(got)


def test_the_context_in_the_message_goes_before_the_one_around_it(rig: Rig) -> None:
    """Which is linked (conventions for MCP)."""
    (parent, trace_id), (around, other) = context(), context()
    client = modern(rig.gateway.tool_url("remote"), traceparent=around)
    client.post("tools/call", {"name": "echo", "arguments": {"text": "x"}, "_meta": {"traceparent": parent}})
    assert rig.by_kind(trace_id)["server"].links == ((other, "00000000000000aa"),)
    assert not rig.collector.trace(other)


@pytest.mark.parametrize(
    ("name", "arguments", "errors"),
    [
        ("fail", {}, ("tool_error", None, "tool_error")),
        ("sleep", {"seconds": 30}, ("INVOCATION_TIMEOUT",) * 3),
        ("nothing of this name", {}, ("-32602", None, "-32602")),
        ("kill_me", {}, ("TRANSPORT_FAILURE",) * 3),
    ],
)
def test_failures_have_an_error_status(
    rig: Rig, name: str, arguments: dict[str, Any], errors: tuple[str | None, ...]
) -> None:
    """Of the request and of the exchange; an error that the backend answers with is no failure of the worker's."""
    parent, trace_id = context()
    client = modern(rig.gateway.tool_url("brief"))
    client.post("tools/call", {"name": name, "arguments": arguments, "_meta": {"traceparent": parent}})
    found = rig.by_kind(trace_id)
    ends = [found[kind] for kind in ("server", "consumer", "client")]
    assert tuple(span.error for span in ends) == errors
    assert [span.failed for span in ends] == [error is not None for error in errors]


def test_what_is_refused_has_an_error_status(rig: Rig) -> None:
    """Before it becomes a call: a session that is not known."""
    parent, trace_id = context()
    client = RawClient(rig.gateway.tool_url("local"), headers={"traceparent": parent}, session="unknown")
    assert client.post("tools/call", {"name": "echo", "arguments": {}}).status_code == 404
    (server,) = rig.trace(trace_id, "tools/call echo")
    assert (server.error, server.failed) == ("SESSION_NOT_FOUND", True)


def test_a_session_that_is_started_is_linked_from_later_calls(rig: Rig) -> None:
    """The first call waits for it, in a span of its own; the others' traces say where it was begun."""
    client = legacy(rig.gateway.tool_url("own"))
    traces = [context() for _ in range(2)]
    for parent, _ in traces:
        client.post(
            "tools/call", {"name": "echo", "arguments": {"text": "x"}, "_meta": {"traceparent": parent}}
        )
    first = rig.trace(traces[0][1], *warm("own")[:3], "start own", "tools/call echo")
    start = first[3]
    assert (start.kind, start.parent) == ("internal", first[2].id)
    (later,) = rig.trace(traces[1][1], *warm("own"))[3:]
    assert later.links == ((start.trace, start.id),)


def test_each_attempt_has_its_span(rig: Rig) -> None:
    """A call that may run again, of a backend that dies twice."""
    parent, trace_id = context()
    client = modern(rig.gateway.tool_url("again"))
    client.post("tools/call", {"name": "kill_me", "arguments": {}, "_meta": {"traceparent": parent}})

    def sent() -> list[SpanSeen]:
        return [span for span in rig.collector.trace(trace_id) if span.kind == "client"]

    wait_until(lambda: len(sent()) == 2, timeout=15, description="both attempts")
    assert {span.attributes["canalgate.attempt"]: span.error for span in sent()} == {
        0: "TRANSPORT_FAILURE",
        1: "TRANSPORT_FAILURE",
    }


def test_log_lines_name_call_and_trace(rig: Rig) -> None:
    """In both programs; the access log has one line for the request, with how it ended."""
    parent, trace_id = context()
    client = legacy(rig.gateway.tool_url("local"))
    client.post("tools/call", {"name": "fail", "arguments": {}, "_meta": {"traceparent": parent}})
    server = rig.by_kind(trace_id)["server"]
    facts = {
        "trace_id": trace_id,
        "tenant": "default",
        "client": "default",
        "tool": "local",
        "method": "tools/call",
        "request_id": 2,
        "mcp_session": client.session,
        "invocation": server.attributes["canalgate.invocation"],
    }
    (line,) = rig.logged("web", event="request", **facts)
    assert line["outcome"] == "tool_error"
    assert line["span_id"] == server.id
    assert line["duration_ms"] > 0
    (begun,) = rig.logged("worker1", event="call_begun", trace_id=trace_id)
    assert begun["invocation"] == facts["invocation"]
    assert (begun["tenant"], begun["client"], begun["tool"]) == ("default", "default", "local")


def test_nothing_secret_is_in_any_span(rig: Rig) -> None:
    """No argument, no result, no URI; what authorises towards the collector is in a header, and no log has it."""
    parent, trace_id = context()
    client = modern(rig.gateway.tool_url("local"))
    given = {"name": "echo", "arguments": {"text": SECRET, SECRET: SECRET}, "_meta": {"traceparent": parent}}
    assert SECRET in client.post("tools/call", given).text
    client.post("resources/read", {"uri": f"echo://{SECRET}", "_meta": {"traceparent": parent}})
    rig.by_kind(trace_id)
    wait_until(lambda: rig.collector.named("resources/read"), description="the read")
    assert not any(SECRET.encode() in body for body in rig.collector.raw)
    assert {headers["x-org"] for headers in rig.collector.headers} == {"acme"}


def test_over_grpc_and_a_collector_that_is_away(tmp_path: Path) -> None:
    """Calls do not notice it; what is begun when it is back is there. OpenTelemetry's variables name it."""
    with collector() as found:
        found.down = True
        env = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_ENDPOINT": found.grpc_url,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_SERVICE_NAME": "ours",
        }
        with traced(tmp_path, found, {}, **env) as rig:
            client = modern(rig.gateway.tool_url("local"))
            began = time.monotonic()
            for _ in range(20):
                assert client.text("echo", {"text": "x"}) == "x"
            assert time.monotonic() - began < 10
            found.down = False
            # What is being tried again may be lost; what comes after it is not.
            parent, trace_id = context()
            given = {"name": "echo", "arguments": {"text": "x"}, "_meta": {"traceparent": parent}}
            client.post("tools/call", given)
            spans = rig.trace(trace_id, *warm("local"))
            assert {span.resource["service.name"] for span in spans} == {"ours"}
