"""A real Prometheus scrapes a real gateway: every rule is evaluated, and every query of the dashboard answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest

from tests.support.mcp import legacy, modern
from tests.support.prometheus import MONITORING, TOKEN, configured, program
from tests.support.servers.gateway import running_gateway
from tests.support.servers.process import free_port, running, server_command
from tests.support.wait import wait_until

pytestmark = pytest.mark.e2e
ALWAYS = {
    "Requests a second, by outcome",
    "Answer time, 95 of 100",
    "Calls a second, by tool",
    "Time at the worker, 95 of 100",
    "Time in the queue, 95 of 100",
    "Calls that wait",
    "Age of the oldest",
    "Taken from the queue a second",
    "Calls in flight",
    "Tool sessions",
    "Workers",
    "Dead letters",
    "Calls without an answer, by tool and outcome",
    "Tool states but enabled",
}
"""Panels that must show something of the gateway below: one tool is disabled, one gives no answer."""


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer; it fails with what Prometheus says of a query that it cannot do."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, query: str) -> list[Any]:
        """The samples of a query now."""
        return list(self.ask("query", query=query)["result"])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It asks a gateway that has served calls, some of which got no answer, and has a tool that is disabled."""
    binary, directory = program("prometheus"), tmp_path_factory.mktemp("prom")
    command, *args = server_command("echo")
    tools = {
        "local": {"command": command, "args": args},
        "broken": {"command": "/bin/false"},
        "idle": {"command": command, "args": args, "enabled": False},
    }
    settings = {"metrics": {"token": TOKEN}}
    with running_gateway(tools, directory=directory / "gateway", settings=settings) as gateway:
        config, port = configured(directory, f"127.0.0.1:{gateway.port}"), free_port()
        words = [
            binary,
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        found = Prometheus(f"http://127.0.0.1:{port}")
        with running(words, log=directory / "prometheus.log"):
            wait_until(lambda: ready(found), timeout=30, description="Prometheus to be ready")
            # The first call of each kind makes its series; those after the next scrape give it a rate.
            for _ in range(2):
                make_calls(gateway.tool_url("local"), gateway.tool_url("broken"))
                reached = found.value("sum(canalgate_calls_total)")
                before = float(reached[0]["value"][1]) if reached else 0.0
                wait_until(
                    lambda: calls_seen(found) > before,  # noqa: B023 - called before the next round
                    timeout=30,
                    interval=0.3,
                    description="the calls to be scraped",
                )
            yield found


def ready(prometheus: Prometheus) -> bool:
    """Whether it answers."""
    try:
        return httpx.get(f"{prometheus.url}/-/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def make_calls(local: str, broken: str) -> None:
    """Two kinds."""
    legacy(local).text("echo", {"text": "x"})
    modern(broken).post("tools/call", {"name": "x", "arguments": {}})


def calls_seen(prometheus: Prometheus) -> float:
    """Calls by what was scraped, once both kinds are there."""
    kinds = prometheus.value("sum by (tool) (canalgate_calls_total)")
    return sum(float(kind["value"][1]) for kind in kinds) if len(kinds) == 2 else 0.0


def test_it_scrapes_the_gateway_with_the_token(prometheus: Prometheus) -> None:
    """The job is up, and no alert but those of the broken tool is near."""
    (up,) = prometheus.value("up")
    assert (up["metric"]["job"], up["value"][1]) == ("canalgate", "1")
    firing = {alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"]}
    assert firing <= {"CanalgateToolUnavailable", "CanalgateCircuitOpen", "CanalgateCallsFail"}


def test_it_evaluates_every_rule(prometheus: Prometheus) -> None:
    """None of them fails on figures of a real gateway."""

    def rules() -> list[Any]:
        (group,) = prometheus.ask("rules")["groups"]
        return list(group["rules"])

    wait_until(
        lambda: all(rule["health"] != "unknown" for rule in rules()), timeout=20, description="a round"
    )
    assert {rule["name"]: rule.get("lastError", "") for rule in rules() if rule["health"] != "ok"} == {}


def test_the_dashboard_s_queries_are_answered_and_show_what_is_there(prometheus: Prometheus) -> None:
    """Each without an error; those that the calls above concern with data."""
    panels = orjson.loads((MONITORING / "dashboard.json").read_bytes())["panels"]
    assert {panel["title"] for panel in panels} >= ALWAYS

    def empty() -> set[str]:
        return {
            panel["title"]
            for panel in panels
            for target in panel["targets"]
            if not prometheus.value(target["expr"])
        }

    with suppress(AssertionError):
        wait_until(
            lambda: not (empty() & ALWAYS), timeout=20, interval=0.5, description="data for these panels"
        )
    assert empty() & ALWAYS == set()
