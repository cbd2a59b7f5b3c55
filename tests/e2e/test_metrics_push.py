"""A real gateway pushes its figures to a collector: each process its own, one of them the cluster's."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support.mcp import modern
from tests.support.otlp_collector import Collector, collector
from tests.support.servers.gateway import running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

pytestmark = pytest.mark.e2e
COMMAND, *ARGS = server_command("echo")
CALLS = 20


def total(found: Collector, name: str, **attributes: str) -> float:
    return sum(point.value for point in found.latest(name, **attributes))


@pytest.mark.parametrize("exporter", ["otlp_http", "otlp_grpc"])
def test_nothing_is_counted_twice_and_nothing_is_lost_at_the_end(tmp_path: Path, exporter: str) -> None:
    """Two web processes and a worker: a sum over all is the number of calls, with those just before the end.

    What Redis says comes from one of them, as one series; there is no page, which nobody asked for.
    """
    with collector() as found:
        telemetry = {
            "metrics_exporter": exporter,
            "endpoint": found.grpc_url if exporter == "otlp_grpc" else found.http_url,
            "headers": "x-org=acme",
            "metrics_interval": 1,
        }
        settings = {"telemetry": telemetry, "web": {"processes": 2}}
        tools = {"local": {"command": COMMAND, "args": ARGS}}
        with running_gateway(tools, directory=tmp_path, settings=settings) as gateway:
            client = modern(gateway.tool_url("local"))
            assert httpx.get(f"{gateway.url}/metrics", timeout=30).status_code == 404
            wait_until(
                lambda: (
                    len(found.latest("canalgate_requests_waiting")) == 2
                    and found.latest("canalgate_worker_may_act")
                    and found.latest("canalgate_workers")
                ),
                timeout=20,
                description="all processes to push",
            )
            for number in range(CALLS):
                client.text("echo", {"text": str(number)})
        assert total(found, "canalgate_requests", method="tools/call", outcome="ok") == CALLS
        assert total(found, "canalgate_calls", tool="local", outcome="ok") == CALLS
        assert total(found, "canalgate_call_duration_seconds", tool="local") == CALLS
        (workers,) = found.latest("canalgate_workers")
        assert (workers.instance, workers.attributes, workers.value) == ("cluster:canalgate", {}, 1)
        (enabled,) = found.latest("canalgate_tool_state", tool="local", state="enabled")
        assert enabled.instance == "cluster:canalgate"
        assert {headers["x-org"] for headers in found.headers} == {"acme"}
