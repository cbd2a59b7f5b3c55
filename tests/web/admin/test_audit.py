"""The journal over the admin API: what happened, and what happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from common.audit.chain_store import ChainStore
from common.audit.journal import Journal
from common.domain.audit import AuditEvent, EventKind
from common.domain.audit_chain import START, seal_all
from common.settings import Settings
from common.settings.changes import changes_between
from gateway_web.admin.audit import MOST_READ
from tests.web.admin.conftest import PREFIX, SETTINGS, TOKENS, Ask
from tests.web.harness import Serve, Web

CREATED, CLOSED = EventKind.SESSION_CREATED, EventKind.SESSION_CLOSED


@pytest.fixture
def journal(admin_web: Web) -> Journal:
    gateway = admin_web.gateway
    gateway.client.delete(gateway.keys.audit, gateway.keys.audit_chain)
    return Journal(gateway.client, gateway.keys)


def write(journal: Journal, count: int, *, first: int = 0) -> list[str]:
    return [
        journal.record(
            AuditEvent(
                kind=(CREATED, CLOSED)[number % 2],
                tenant="ab"[number % 3 == 0],
                tool="t" if number < 4 else "u",
                detail=str(number),
            )
        )
        for number in range(first, first + count)
    ]


def details(answer: Any) -> list[str]:
    return [item["event"]["detail"] for item in answer.json["items"]]


def test_events_are_listed_the_newest_first(ask: Ask, journal: Journal) -> None:
    """By page, each once, whatever comes meanwhile."""
    ids = write(journal, 7)
    page = ask("GET", "/audit?limit=3", role="viewer")
    assert details(page) == ["6", "5", "4"]
    assert page.json["items"][0]["id"] == ids[-1]
    assert page.json["items"][0]["time"].endswith("+00:00")
    write(journal, 2, first=7)
    page = ask("GET", f"/audit?limit=3&cursor={page.json['next_cursor']}")
    assert details(page) == ["3", "2", "1"]
    page = ask("GET", f"/audit?limit=3&cursor={page.json['next_cursor']}")
    assert (details(page), page.json["next_cursor"]) == (["0"], None)


def test_events_are_chosen(ask: Ask, journal: Journal) -> None:
    """By tenant, tool, kinds and time."""
    write(journal, 8)
    assert details(ask("GET", "/audit?tenant=b")) == ["6", "3", "0"]
    assert details(ask("GET", "/audit?tool=t&kind=session_closed")) == ["3", "1"]
    assert len(details(ask("GET", "/audit?kind=session_closed&kind=session_created"))) == 8
    assert len(details(ask("GET", "/audit?since=2020-01-01T00:00:00Z"))) == 8
    assert details(ask("GET", "/audit?since=2999-01-01T00:00:00Z")) == []


def test_a_page_of_rare_events_reads_a_bounded_part_of_the_journal(
    ask: Ask, journal: Journal, admin_web: Web
) -> None:
    """It may be empty; its cursor leads on until the journal has been looked through."""
    write(journal, 1)
    gateway = admin_web.gateway
    with gateway.client.pipeline(transaction=False) as pipe:
        for _ in range(MOST_READ):
            pipe.execute_command("XADD", gateway.keys.audit, "*", "kind", "session_created", "tool", "other")
        pipe.execute()
    first = ask("GET", "/audit?tool=t")
    assert first.json["items"] == []
    assert details(ask("GET", f"/audit?tool=t&cursor={first.json['next_cursor']}")) == ["0"]


@pytest.mark.parametrize(
    "query",
    [
        "kind=nonsense",
        "since=yesterday",
        "since=0.5",
        "since=2020-01-01T00:00:00",
        "cursor=eA",
        "limit=0",
        "x=1",
    ],
)
def test_a_bad_question_is_refused_by_name(ask: Ask, query: str) -> None:
    """A time without its zone, too."""
    answer = ask("GET", f"/audit?{query}")
    assert answer.status_code in {400, 422}
    assert query.partition("=")[0] in answer.text


class Stream:
    """The events of one client."""

    def __init__(self, ask: Ask, query: str = "", last: str | None = None, role: str = "viewer") -> None:
        headers = {} if last is None else {"Last-Event-ID": last}
        self._answer = ask("GET", f"/audit/stream{query}", role=role, headers=headers, buffered=False)
        assert self._answer.status_code == 200
        assert self._answer.content_type.startswith("text/event-stream")
        self._parts: Iterator[bytes] = iter(self._answer.iter_encoded())
        self.begin = self.next()["id"]

    def next(self) -> dict[str, Any]:
        """The next event that is no comment."""
        for part in self._parts:
            lines = [line.partition(": ") for line in part.decode().splitlines() if line]
            found: dict[str, Any] = {name: value for name, _, value in lines if name}
            if found:
                return found
        raise AssertionError("the stream is at its end")

    def told(self) -> str:
        return str(orjson.loads(self.next()["data"])["event"]["detail"])

    def rest(self) -> bytes:
        """The next part; nothing at the end."""
        return next(self._parts, b"")

    def close(self) -> None:
        self._answer.close()


def test_events_come_as_they_happen(ask: Ask, journal: Journal) -> None:
    """Those that are asked for, from now on."""
    write(journal, 3)
    stream = Stream(ask, "?tenant=b")
    write(journal, 6, first=3)
    first = stream.next()
    assert (first["event"], orjson.loads(first["data"])["event"]["detail"]) == ("audit", "3")
    assert first["id"] == orjson.loads(first["data"])["id"]
    assert stream.told() == "6"
    stream.close()


def test_a_client_that_comes_back_misses_nothing(ask: Ask, journal: Journal) -> None:
    """Behind the last one it had, or behind where it began."""
    stream = Stream(ask)
    ids = write(journal, 5)
    assert [stream.told() for _ in range(2)] == ["0", "1"]
    stream.close()
    again = Stream(ask, last=ids[1])
    assert [again.told() for _ in range(3)] == ["2", "3", "4"]
    again.close()
    begun = Stream(ask, last=stream.begin)
    assert begun.told() == "0"
    begun.close()


def test_what_redis_has_no_more_is_told_as_a_gap(ask: Ask, journal: Journal, admin_web: Web) -> None:
    """And where it ends."""
    ids = write(journal, 6)
    gateway = admin_web.gateway
    chain = ChainStore(gateway.client, gateway.keys, "me")
    chain.keep()
    sealed = seal_all(START, chain.entries("0", 6))
    chain.move_head(START, sealed[-1].position)
    chain.trim(sealed[3].position, [])
    stream = Stream(ask, last=ids[0])
    gap = stream.next()
    assert (gap["event"], orjson.loads(gap["data"])) == ("gap", {"after": ids[0], "upto": ids[3]})
    assert stream.told() == "4"
    stream.close()
    whole = Stream(ask, last=ids[3])
    assert whole.told() == "4"
    whole.close()
    gateway.client.delete(gateway.keys.audit_lease, gateway.keys.audit_chain)


@pytest.mark.parametrize("last", ["x", "1", "1-", "1-1-1", "\u0661-0", "9" * 99 + "-0"])
def test_an_id_that_is_none_is_refused(ask: Ask, last: str) -> None:
    """By name."""
    answer = ask("GET", "/audit/stream", headers={"Last-Event-ID": last.encode().decode("latin-1")})
    assert answer.status_code == 400
    assert answer.json["field"] == "header.Last-Event-ID"


ROTATED = {"name": "viewer-1", "token": "another-token-of-the-viewer", "role": "viewer"}


@pytest.mark.parametrize("instead", [[], [ROTATED]])
def test_the_stream_of_a_token_that_was_taken_out_ends(serve: Serve, instead: list[dict[str, str]]) -> None:
    """What happens from then on is not told to it, and it goes on for the tokens that are left."""
    web = serve(admin=SETTINGS)
    gateway = web.gateway

    def ask(method: str, path: str, *, role: str, headers: dict[str, str], **more: Any) -> Any:
        token = {"Authorization": f"Bearer {TOKENS[role]}"}
        return web.http.open(PREFIX + path, method=method, headers={**token, **headers}, **more)

    out, left = Stream(ask), Stream(ask, role="admin")
    kept = [entry for entry in SETTINGS["tokens"] if entry["role"] != "viewer"]
    wanted = {
        "redis": {"key_prefix": gateway.settings.redis.key_prefix},
        "admin": {**SETTINGS, "tokens": kept + instead},
    }
    gateway.take_over(changes_between(gateway.settings, Settings.model_validate(wanted)))
    write(Journal(gateway.client, gateway.keys), 1)
    assert left.told() == "0"
    assert out.rest() == b""
    for stream in (out, left):
        stream.close()
