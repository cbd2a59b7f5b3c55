"""The journal of a whole gateway: every call that was accepted has its decision, its start and one end, in the file."""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from common.audit.verify import verify_file
from common.domain.audit import CALL_ENDS
from common.domain.audit_chain import SealedRecord
from common.domain.errors import InvalidRequest
from tests.support.mcp import modern
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

KEY = "e2e"
ENDS = {kind.value for kind in CALL_ENDS}


@dataclass(frozen=True, slots=True)
class Audited:
    """A gateway of two workers, and the file of its sink."""

    gateway: RunningGateway
    file: Path

    def call(
        self, name: str = "echo", *, tool: str = "echo", timeout: float = 30, **arguments: object
    ) -> dict[str, object]:
        """One call; the answer."""
        url = self.gateway.tool_url(tool)
        raw = modern(url)
        message = raw.message("tools/call", {"name": name, "arguments": {"text": "x", **arguments}})
        headers = raw.sent_headers("tools/call", message["params"])
        answer: dict[str, object] = httpx.post(url, json=message, headers=headers, timeout=timeout).json()
        return answer

    def processes(self, word: str) -> list[psutil.Process]:
        """Processes of the gateway with this word in their command line."""
        found = []
        for process in psutil.Process(self.gateway.process.popen.pid).children(recursive=True):
            with suppress(psutil.Error):
                if word in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def events(self) -> list[dict[str, str]]:
        """What the file holds; a line that is just being written is left out."""
        found = []
        for line in self.file.read_bytes().splitlines(keepends=True) if self.file.exists() else ():
            with suppress(InvalidRequest):
                found.append(dict(SealedRecord.from_line(line).event))
        return found

    def by_call(self) -> dict[str, list[dict[str, str]]]:
        """The events of each call that was accepted."""
        calls: dict[str, list[dict[str, str]]] = defaultdict(list)
        for event in self.events():
            if "invocation" in event:
                calls[event["invocation"]].append(event)
        return calls

    def all_ended(self, calls: int) -> bool:
        """Whether at least so many calls are there, each with an end."""
        found = self.by_call()
        return len(found) >= calls and all(
            ENDS & {event["kind"] for event in told} for told in found.values()
        )


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    home = tmp_path_factory.mktemp("a")
    file = home / "audit.ndjson"
    command, *args = server_command("echo")
    settings = {
        "worker": {"processes": 2, "concurrency": 50},
        "audit": {"chain_key": KEY, "sinks": [{"type": "file", "options": {"path": str(file)}}]},
    }
    tool = {"command": command, "args": args, "request_timeout": 4}
    with running_gateway({"echo": tool}, directory=home, settings=settings) as gateway:
        yield Audited(gateway, file)


def require_complete(audited: Audited, calls: int) -> dict[str, list[dict[str, str]]]:
    """Each call: decision, start, end, in this order, the end once; and the chain holds."""
    wait_until(lambda: audited.all_ended(calls), timeout=40, description="every call's end")
    found = audited.by_call()
    for told in found.values():
        kinds = [event["kind"] for event in told]
        assert kinds[0] == "policy_decision", told
        assert set(kinds[1:-1]) == {"invocation_start"}, told
        assert kinds[-1] in ENDS, told
        assert {event["tenant"] for event in told} == {"default"}
        assert len({event["capability"] for event in told}) == 1
    verified = verify_file(audited.file, KEY.encode())
    assert verified.problems == ()
    assert (verified.first, verified.repeated) == (1, 0)
    return found


def test_calls_of_all_kinds_are_whole(audited: Audited) -> None:
    """Answered, answered with an error, timed out, left by its client, refused."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: audited.call(text=str(number)), range(60)))
    audited.call("nonsense")
    audited.call("sleep", seconds=30)
    with suppress(httpx.TimeoutException):
        audited.call("sleep", seconds=3, timeout=0.7)
    for _ in range(3):
        audited.call(tool="nobody")
    found = require_complete(audited, 63)
    ends = Counter(told[-1]["outcome"] for told in found.values())
    assert ends["success"] >= 60
    assert (ends["timeout"], ends["cancelled"]) == (1, 1)
    echoes = (told for told in found.values() if told[-1]["capability"] == "echo")
    sample = next(told for told in echoes if told[-1]["outcome"] == "success")
    assert float(sample[-1]["duration_ms"]) > 0
    assert sample[-1]["worker"] in sample[-1]["node"]
    assert (sample[1]["kind"], sample[1]["method"]) == ("invocation_start", "tools/call")


def test_calls_are_whole_whatever_is_killed(audited: Audited) -> None:
    """A worker with calls under way, and the keeper, each by kill -9: nothing is missing, nothing is there twice."""
    before = len(audited.by_call())

    def sleep(_: int) -> None:
        with suppress(httpx.HTTPError):
            audited.call("sleep", seconds=1.5)

    with ThreadPoolExecutor(24) as pool:
        calls = [pool.submit(sleep, number) for number in range(24)]
        wait_until(
            lambda: sum(event["kind"] == "invocation_start" for event in audited.events()) >= before + 12,
            timeout=20,
            description="calls under way",
        )
        for keeper in audited.processes("keeper_program"):
            keeper.send_signal(signal.SIGKILL)
        audited.processes("gateway_worker.app")[0].send_signal(signal.SIGKILL)
        for call in calls:
            call.result()
    audited.call()
    require_complete(audited, before + 25)
