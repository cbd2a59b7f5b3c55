"""What the scripts of the queue are made of: who is who, what is held back, what is said of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.backend import Agenda, EchoServer, wait_of
from benchmarks.cells import Cell
from benchmarks.cells import Round as LoopRound
from benchmarks.desk import Account, Transport
from benchmarks.figures import Window, ratio
from benchmarks.goals import Goal, whole_loop
from benchmarks.parts import Part, part_of
from benchmarks.queue_load import message_bytes
from benchmarks.report import markdown as report_markdown
from benchmarks.report import own_table, plain, whole_loop_lines
from benchmarks.script import DOCUMENT, Options, Outcome, Script, document_of, markdown, paste
from benchmarks.tally import Counts, Tally, total
from benchmarks.targets import Target
from benchmarks.two_workers import Round, Samples
from benchmarks.wire import FIRST_CALL_ID, CallTemplate, Endpoint, Spread
from common.settings import Settings
from common.store.keys import Keys
from gateway_web.cli.programs import web_command, worker_command
from gateway_worker.message import read_message
from tests.support.wait import wait_until


class TestParts:
    @pytest.mark.parametrize(
        ("command", "part"),
        [
            (web_command(Settings(), host="127.0.0.1", port=1), Part.WEB),
            (["gunicorn: worker [gateway_web.wsgi:app]"], Part.WEB),
            (worker_command("redis-server@%h"), Part.WORKER),
            (["/x/celery/bin/python", "/x/common/processes/reaper.py"], Part.OTHER),
            (["/usr/bin/redis-server unixsocket:/tmp/gunicorn/s"], Part.REDIS),
            (["/x/valkey-server", "/x/celery/redis.conf"], Part.REDIS),
            ([], Part.OTHER),
        ],
    )
    def test_a_process_is_told_by_its_program(self, command: Sequence[str], part: Part) -> None:
        """By the product's own command lines, and not by the names and paths in them."""
        assert part_of(command) is part

    def test_cpu_is_told_apart_by_part(self) -> None:
        """Each process counts for its own part; one that nobody knows is other."""
        before = Account(
            target_cpu={1: 1.0, 2: 2.0}, backend_cpu={}, backend_calls=0, parts={1: Part.WEB, 2: Part.REDIS}
        )
        after = Account(
            target_cpu={1: 1.5, 2: 2.25, 3: 1.0, 4: 0.125},
            backend_cpu={},
            backend_calls=0,
            parts={1: Part.WEB, 2: Part.REDIS, 3: Part.WORKER},
        )
        used = after.target_cpu_by_part_since(before)
        assert used == {Part.WEB: 0.5, Part.REDIS: 0.25, Part.WORKER: 1.0, Part.OTHER: 0.125}
        assert sum(used.values()) == after.target_cpu_since(before)

    def test_the_gateways_own_table_adds_its_parts(self) -> None:
        """What a call consists of: latency over the backend's own, and web, worker and Redis together."""
        figures = {"transport": "stdio", "concurrency": 1, "p99_ms": 6.0}
        parts = {"web_cpu_us_per_call": 300.0, "worker_cpu_us_per_call": 100.0, "redis_cpu_us_per_call": 40.0}
        rows = [
            {"name": "direct", **figures, "p50_ms": 0.5},
            {"name": "canalgate", **figures, **parts, "other_cpu_us_per_call": 9.0, "p50_ms": 2.0},
        ]
        assert own_table(rows)[1] == ("stdio", "1", "2.00", "1.50", "3.00", "300", "100", "40.0", "440")


class TestBackend:
    def test_an_answer_that_is_held_back_comes_after_its_progress(self) -> None:
        """Nothing is due before its time; the last line is the answer, and then the call is no longer held."""
        tally = Tally(None)
        server, agenda = EchoServer(tally), Agenda(tally)
        arguments = {"text": "late", "wait": 0.2, "beats": 2}
        params = {"name": "echo", "arguments": arguments, "_meta": {"progressToken": 7}}
        call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
        assert wait_of(call) == 0.2
        agenda.add(call, orjson.dumps(server.answer(call)), 0.2)
        first = [orjson.loads(line) for line in agenda.take_due()]
        assert [it["params"]["progress"] for it in first] == [1]
        lines: list[bytes] = []

        def both() -> bool:
            lines.extend(agenda.take_due())
            return len(lines) == 2

        wait_until(both, description="both lines")
        assert orjson.loads(lines[0])["params"] == {"progressToken": 7, "progress": 2, "total": 2}
        assert orjson.loads(lines[1])["result"]["content"][0]["text"] == "late"
        assert agenda.seconds_left() is None

    def test_counts_tell_calls_from_other_messages_and_the_most_held_at_once(self, tmp_path: Path) -> None:
        """They lie in a file, so that a killed backend has counted too."""
        tally = Tally(tmp_path)
        server = EchoServer(tally)
        server.answer({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        server.answer({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "echo"}})
        tally.hold()
        tally.hold()
        tally.release()
        tally.hold()
        assert total(tmp_path) == Counts(1, 1, 2)


class TestLoad:
    def test_calls_go_round_over_the_endpoints(self) -> None:
        """Every endpoint gets its share, and every call keeps its own id."""
        spread = Spread([CallTemplate(b"%b %d" % (name, FIRST_CALL_ID)) for name in (b"a", b"b", b"c")])
        names = Counter(spread.render(FIRST_CALL_ID + n).split()[0] for n in range(9))
        assert names == {b"a": 3, b"b": 3, b"c": 3}
        assert spread.render(FIRST_CALL_ID + 5).endswith(b" %d" % (FIRST_CALL_ID + 5))

    def test_a_message_of_the_queue_load_is_one_of_the_gateway(self) -> None:
        """The worker reads it, and each call has a task id and a text of its own."""
        template = CallTemplate(message_bytes(Keys("bench"), 1, Endpoint(port=0, arguments={"wait": 0.5})))
        first, second = (read_message(template.render(FIRST_CALL_ID + n), "tool.bench") for n in (1, 2))
        assert first.task == "gateway.invoke"
        assert first.id != second.id
        payload = first.first_argument()
        assert isinstance(payload, dict)
        assert payload["params"]["arguments"] == {"text": f"hello-{FIRST_CALL_ID + 1}", "wait": 0.5}


class TestSamples:
    def test_messages_that_a_worker_hoards_are_missed_in_the_queue(self) -> None:
        """What nobody holds must lie in the queue; and nobody holds more than its slots."""
        honest = Samples(queued=[96, 96], held=[[32], [32]], waited_for=[128, 128])
        assert honest.backlog_seen == 1.0
        hoarded = Samples(queued=[32, 40], held=[[96], [88]], waited_for=[128, 128])
        assert hoarded.most_held == 96
        hidden = Samples(queued=[48], held=[[32]], waited_for=[128])
        assert hidden.backlog_seen == 0.5
        empty = Window(seconds=1.0, latencies=[])
        assert Round(window=empty, samples=Samples(), errors=Counter()).samples.backlog_seen is None


async def _nothing(_options: Options, _bench: object) -> Outcome:
    return Outcome()


SCRIPT = Script(
    name="example", about="", columns={"who": "who", "n": "calls"}, measure=_nothing, rounds=1, seconds=1.0
)
OPTIONS = Options(rounds=2, seconds=3.0, smoke=False)


def loop_row(
    name: str,
    concurrency: int,
    *,
    transport: str = "stdio",
    rps: Sequence[float] = (100.0, 100.0, 100.0),
    p50: float = 1.0,
    p99: float = 2.0,
) -> dict[str, Any]:
    """A row of `benchmarks.run`."""
    parts = {f"{part}_cpu_us_per_call": 200.0 for part in Part}
    return Cell(
        target=Target(name=name, version="-", setup="", start=lambda _: {}),
        transport=Transport(transport),
        concurrency=concurrency,
        rounds=[LoopRound(rps=rate, p50_ms=p50, p99_ms=p99) for rate in rps],
    ).row(
        {
            **parts,
            "setup": "",
            "date": "",
            "machine": "",
            "backend": "",
            "era": "",
            "sessions": "",
            "seconds": 1,
        }
    )


class TestReports:
    @pytest.mark.parametrize(
        ("measured", "at_least", "reached"),
        [
            (30.0, True, True),
            (29.9, True, False),
            (30.0, False, True),
            (30.1, False, False),
            (None, False, False),
        ],
    )
    def test_a_goal_has_a_direction(self, measured: float | None, at_least: bool, reached: bool) -> None:
        """What was not measured is not reached."""
        assert Goal(text="", wanted=30, measured=measured, at_least=at_least).reached is reached

    def test_the_whole_loop_is_held_against_the_best_that_was_measured(self) -> None:
        """By the median over the rounds, by name, and with a mark where it is missed; also in the documentation."""
        rows = [
            loop_row("canalgate", 16, rps=[3000.0, 1000.0, 2000.0], p50=5.0, p99=30.0),
            loop_row("mcp-proxy-ts", 16, rps=[1000.0, 1000.0, 1000.0]),
            loop_row("mcp-proxy-py", 16, rps=[10.0, 10.0, 10.0]),
            loop_row("fastmcp-held", 16, rps=[1000.0, 500.0, 900.0]),
            loop_row("contextforge", 16, rps=[0.0, 0.0, 0.0]),
        ]
        lines = whole_loop_lines(rows)
        assert lines == [
            "stdio, c=16: calls/s to those of the best bridge (mcp-proxy-ts): 2.00 (wanted: at least 1.5)",
            "stdio, c=16: calls/s to those of the best full gateway (fastmcp-held): 2.22 (wanted: at least 3), MISSED",
            "stdio, c=16: CPU of web, worker, redis a call in ms: 0.60 (wanted: at most 0.8)",
            "stdio, c=16: p99 to p50: 6.00 (wanted: at most 5), MISSED",
        ]
        assert all(f"- {line}\n" in report_markdown(rows) for line in lines)
        assert all(line in plain(rows) for line in lines)

    def test_a_lone_call_is_held_against_the_backend_and_the_soonest_peer(self) -> None:
        """Who is slower than any of them has missed the goal."""
        rows = [
            loop_row("direct", 1, p50=0.1),
            loop_row("canalgate", 1, p50=1.2),
            loop_row("mcp-proxy-ts", 1, p50=0.6),
            loop_row("fastmcp", 1, p50=9.0),
        ]
        assert [(goal.measured, goal.reached) for goal in whole_loop(rows)] == [(1.1, True), (2.0, False)]

    def test_each_transport_has_its_own_goals(self) -> None:
        """Over HTTP bridges and gateways are one field, and a call may cost a little more."""
        names = ("canalgate", "mcp-proxy-py", "fastmcp", "contextforge")
        rows = [loop_row(name, 16, transport="http", rps=[100.0] * 3) for name in names]
        found = {goal.text: goal.wanted for goal in whole_loop(rows)}
        assert list(found.values()) == [3.0, 30.0, 10.0, 1.0, 5.0]
        assert all(text.startswith("http, c=16: ") for text in found)

    def test_what_was_not_measured_is_no_goal(self) -> None:
        """Without peers only the gateway's own goals are left, without the gateway none."""
        own = [loop_row("canalgate", 16)]
        assert [goal.wanted for goal in whole_loop(own)] == [0.8, 5.0]
        assert whole_loop([loop_row("fastmcp", 16), loop_row("canalgate", 64)]) == []

    def test_figures_are_put_between_their_marks(self, tmp_path: Path) -> None:
        """Again and again, and nothing else of the page changes."""
        outcome = Outcome(rows=[{"who": "a", "n": 1234}], goals=[Goal(text="few", wanted=1, measured=2.0)])
        text = markdown(SCRIPT, document_of(SCRIPT, OPTIONS, outcome))
        assert "| who | calls |\n| --- | ---: |\n| a | 1,234 |" in text
        assert "- few: 2.00 (wanted: at most 1), MISSED" in text
        page = tmp_path / "page.md"
        page.write_text("above\n<!-- generated: bench example -->\nold\n<!-- end: bench example -->\nbelow\n")
        for _ in range(2):
            paste("example", text, page)
        assert page.read_text() == (
            f"above\n<!-- generated: bench example -->\n\n{text}\n\n<!-- end: bench example -->\nbelow\n"
        )
        with pytest.raises(ValueError, match="no place for other"):
            paste("other", text, page)

    def test_the_documentation_has_a_place_for_every_script(self) -> None:
        """Otherwise `make bench-docs` would fail after half an hour of measuring."""
        from benchmarks.desk import BackendKind
        from benchmarks.queue_suite import DOCUMENTED

        page = DOCUMENT.read_text(encoding="utf-8")
        for name in [*(it.name for it in DOCUMENTED), *(f"run {kind}" for kind in BackendKind)]:
            assert f"<!-- generated: bench {name} -->\n" in page, name
            assert f"<!-- end: bench {name} -->" in page, name

    def test_nothing_is_compared_with_nothing(self) -> None:
        """A base without figures gives no ratio."""
        assert ratio(1.0, 0.0) is None
        assert ratio(3.0, 2.0) == 1.5
