"""The figures of a real gateway: those of several web processes and of a worker on one page, and its status."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.common.metrics.test_page import Samples, read
from tests.support.mcp import modern
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

pytestmark = pytest.mark.e2e
COMMAND, *ARGS = server_command("echo")
SETTINGS = {"metrics": {"allowed": ["127.0.0.1"]}, "web": {"processes": 2}}
CALLS = 20


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    tools = {"local": {"command": COMMAND, "args": ARGS}}
    with running_gateway(tools, directory=tmp_path_factory.mktemp("met"), settings=SETTINGS) as found:
        yield found


def scraped(gateway: RunningGateway) -> Samples:
    answer = httpx.get(f"{gateway.url}/metrics", timeout=30)
    assert answer.status_code == 200, answer.text
    return read(answer.content)


def by_process(samples: Samples, name: str, **labels: str) -> dict[str, float]:
    wanted = set(labels.items())
    return {dict(has)["process"]: n for (found, has), n in samples.items() if found == name and wanted <= has}


def test_each_process_is_shown_once_and_nothing_is_counted_twice(gateway: RunningGateway) -> None:
    """Whichever web process is asked: the sum over processes is the number of calls."""
    for number in range(CALLS):
        modern(gateway.tool_url("local")).text("echo", {"text": str(number)})

    def told() -> Samples | None:
        samples = scraped(gateway)
        requests = by_process(samples, "canalgate_requests_total", method="tools/call", outcome="ok")
        calls = by_process(samples, "canalgate_calls_total", tool="local", outcome="ok")
        return samples if sum(requests.values()) == sum(calls.values()) == CALLS else None

    samples = wait_until(told, timeout=20, description="all processes to tell their figures")
    webs = by_process(samples, "canalgate_requests_waiting")
    assert len(webs) == 2
    assert all(name.startswith("web-") for name in webs)
    (worker,) = by_process(samples, "canalgate_worker_may_act").items()
    assert worker[0].startswith("worker1@")
    assert worker[1] == 1
    assert sum(by_process(samples, "canalgate_call_wait_seconds_count", tool="local").values()) == CALLS
    assert by_process(samples, "canalgate_worker_sessions") == {worker[0]: 1}
