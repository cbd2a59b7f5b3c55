"""The stdio backends of ``tests/support/servers`` do what their names say: other tests rely on it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import orjson
import psutil
import pytest

from tests.support.servers.peer import INITIALIZE, META, Json, logged, stdio
from tests.support.wait import wait_until


def test_echo_answers_both_eras() -> None:
    """One process answers a legacy handshake and a modern request, each in its era's shape."""
    with stdio("echo") as peer:
        peer.send("initialize", 1, **INITIALIZE)
        assert peer.message()["result"]["protocolVersion"] == "2025-11-25"
        peer.call("add", 2, a=1, b=2)
        assert peer.message()["result"] == {
            "content": [{"type": "text", "text": "3"}],
            "structuredContent": {"sum": 3},
        }
        peer.send("tools/call", 3, name="echo", arguments={"text": "päivää"}, _meta=META)
        answer = peer.message()
        assert answer["id"] == 3
        assert answer["result"]["resultType"] == "complete"
        assert answer["result"]["content"][0]["text"] == "päivää"


@pytest.mark.parametrize(
    ("era", "refused", "code"), [("legacy", "modern", -32601), ("modern", "legacy", -32022)]
)
def test_echo_of_one_era_refuses_the_other(era: str, refused: str, code: int) -> None:
    """``--era`` limits the server; what it refuses tells a client which era to use instead."""
    with stdio("echo", "--era", era) as peer:
        if refused == "modern":
            peer.send("server/discover", 1, _meta=META)
        else:
            peer.send("initialize", 1, **INITIALIZE)
        assert peer.message()["error"]["code"] == code


def test_echo_pages_its_list() -> None:
    """``--pages 3`` needs three requests for the whole list, without a tool lost or doubled."""
    with stdio("echo", "--pages", 3) as peer:
        names: list[str] = []
        cursor: Json = {}
        for page in range(3):
            peer.send("tools/list", page, **cursor)
            result = peer.message()["result"]
            names += [tool["name"] for tool in result["tools"]]
            cursor = {"cursor": result.get("nextCursor")}
        assert cursor == {"cursor": None}
        assert len(names) == len(set(names)) == 14


def test_echo_serves_calls_concurrently() -> None:
    """A call that takes long does not hold up the next one."""
    with stdio("echo") as peer:
        peer.call("sleep", 1, seconds=30)
        peer.call("echo", 2, text="first")
        assert peer.message()["id"] == 2


def test_echo_cancels_and_logs(tmp_path: Path) -> None:
    """A cancelled call is never answered, and the log shows the call, the notification and the end."""
    log = tmp_path / "echo.jsonl"
    with stdio("echo", env={"ECHO_LOG": str(log)}) as peer:
        peer.call("cancel_log", 7)
        peer.send("notifications/cancelled", requestId=7, reason="test")
        wait_until(lambda: len(logged(log)) == 3, description="three entries of the log")
        peer.call("echo", 8, text="still here")
        assert peer.message()["id"] == 8
    methods = [entry.get("received", {}).get("method") for entry in logged(log)]
    assert methods == ["tools/call", "notifications/cancelled", None, "tools/call"]
    assert logged(log)[2]["cancelled"] == 7


def test_echo_sends_progress_and_log_notifications() -> None:
    """Progress comes only with a token; a log message comes in the legacy era without asking."""
    with stdio("echo") as peer:
        peer.send("tools/call", 1, name="progress", arguments={"steps": 2}, _meta={"progressToken": "t"})
        assert [peer.message()["params"]["progress"] for _ in range(2)] == [1, 2]
        assert peer.message()["result"]["content"][0]["text"] == "did 2 steps"
        peer.call("log", 2)
        assert peer.message()["method"] == "notifications/message"
        assert peer.message()["id"] == 2
        peer.send("tools/call", 3, name="log", arguments={}, _meta=META)
        assert peer.message()["id"] == 3


def test_echo_announces_a_changed_list() -> None:
    """``list_changed`` adds a tool, tells a legacy client and every modern listener."""
    with stdio("echo") as peer:
        peer.send("subscriptions/listen", 5, notifications={"toolsListChanged": True}, _meta=META)
        assert peer.message()["method"] == "notifications/subscriptions/acknowledged"
        peer.call("list_changed", 6)
        legacy, modern, answer = peer.message(), peer.message(), peer.message()
        assert legacy == {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        assert modern["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": 5}
        assert answer["result"]["content"][0]["text"] == "added_1"
        peer.call("added_1", 7)
        assert peer.message()["result"]["content"][0]["text"] == "added_1"


def test_echo_dies_in_the_middle_of_a_call() -> None:
    """``kill_me`` ends the process without an answer."""
    with stdio("echo") as peer:
        peer.call("kill_me")
        with pytest.raises(EOFError):
            peer.line()
        assert peer.popen.wait(10) == 9


def test_echo_ends_with_its_input() -> None:
    """The end of standard input ends the process even while a call is blocked."""
    with stdio("echo") as peer:
        peer.call("cancel_log")
        assert peer.popen.stdin is not None
        peer.popen.stdin.close()
        assert peer.popen.wait(10) == 0


@pytest.mark.parametrize("mode", ["stderr_flood", "slow_start", "ignores_sigterm"])
def test_modes_that_answer_in_the_end(mode: str) -> None:
    """These modes are a nuisance around a correct answer."""
    with stdio("misbehaving", "--mode", mode, "--seconds", 0.2) as peer:
        peer.call("echo", 1, text="there")
        assert peer.message()["result"]["content"][0]["text"] == "there"


def test_mode_exit_at_start() -> None:
    """It exits with 3 and says why on standard error."""
    with stdio("misbehaving", "--mode", "exit_at_start", stderr=subprocess.PIPE) as peer:
        assert peer.popen.wait(10) == 3
        assert peer.popen.stderr is not None
        assert b"no configuration" in peer.popen.stderr.read()


def test_mode_garbage_stdout() -> None:
    """Garbage stands before every answer, and the answer is there."""
    with stdio("misbehaving", "--mode", "garbage_stdout") as peer:
        peer.call("echo", 1, text="there")
        lines = [peer.line() for _ in range(11)]
        assert orjson.loads(lines[-1])["id"] == 1
        for line in (lines[0], lines[1]):
            with pytest.raises(orjson.JSONDecodeError):
                orjson.loads(line)


def test_mode_only_garbage() -> None:
    """No line of it is a JSON-RPC message."""
    with stdio("misbehaving", "--mode", "only_garbage") as peer:
        peer.call("echo", 1, text="there")
        assert not any(b'"id":1' in peer.line() for _ in range(10))


@pytest.mark.parametrize(
    ("mode", "answered", "unanswered"),
    [
        ("silent", None, "initialize"),
        ("silent_after_init", "initialize", "tools/list"),
        ("silent_on_discover", "initialize", "server/discover"),
    ],
)
def test_silent_modes(mode: str, answered: str | None, unanswered: str) -> None:
    """The one request is answered, the other never."""
    with stdio("misbehaving", "--mode", mode) as peer:
        peer.send(unanswered, 1, **INITIALIZE)
        if answered is not None:
            peer.send(answered, 2, **INITIALIZE)
            assert peer.message()["id"] == 2
        assert peer.quiet_for(0.2)


def test_mode_wrong_ids() -> None:
    """Only calls are answered under a foreign id."""
    with stdio("misbehaving", "--mode", "wrong_ids") as peer:
        peer.send("tools/list", 1)
        assert peer.message()["id"] == 1
        peer.call("echo", 2, text="lost")
        assert peer.message()["id"] == "wrong-2"


def test_mode_huge_line() -> None:
    """A call is answered by one line of at least ``--bytes``."""
    with stdio("misbehaving", "--mode", "huge_line", "--bytes", 2_000_000) as peer:
        peer.call("echo", 1, text="small")
        assert len(peer.line()) > 2_000_000


def test_mode_bad_initialize() -> None:
    """The handshake gets a result of the wrong shape."""
    with stdio("misbehaving", "--mode", "bad_initialize") as peer:
        peer.send("initialize", 1, **INITIALIZE)
        assert peer.message()["result"]["protocolVersion"] == 5


def test_mode_ignores_sigterm() -> None:
    """Neither SIGTERM nor the end of its input ends it."""
    with stdio("misbehaving", "--mode", "ignores_sigterm") as peer:
        peer.call("echo", 1, text="started")
        peer.message()
        peer.popen.terminate()
        assert peer.popen.stdin is not None
        peer.popen.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            peer.popen.wait(0.3)


def test_mode_spawns_grandchild(tmp_path: Path) -> None:
    """The grandchild is in the same process group and outlives the server."""
    pid_file = tmp_path / "pid"
    with stdio("misbehaving", "--mode", "spawns_grandchild", "--pid-file", pid_file) as peer:
        peer.call("echo", 1, text="started")
        peer.message()
        grandchild = psutil.Process(int(pid_file.read_text()))
        assert os.getpgid(grandchild.pid) == peer.popen.pid
        peer.popen.kill()
        peer.popen.wait(10)
        assert grandchild.is_running()
    wait_until(lambda: not psutil.pid_exists(grandchild.pid), description="the group to be killed")
