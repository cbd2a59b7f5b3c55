"""What must hold of every answer, whatever was sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

from tests.support.fuzz.grammar import Case
from tests.support.fuzz.readings import Http, Reading, endpoint_of, header_faults, http, readings
from tests.support.fuzz.wire import Answer, problem_of_message

UNFRAMED = frozenset({501, 505})
"""What HTTP itself says to a transfer coding or a version that it does not know."""


@dataclass(slots=True)
class Tally:
    """What a run has seen."""

    statuses: dict[int, int] = field(default_factory=dict)
    reached: int = 0
    """Requests that a backend answered."""
    changed: int = 0
    """Those of them that something was done to."""
    slow: list[float] = field(default_factory=list)
    """Seconds that each answer took."""
    unseen: list[Reading] = field(default_factory=list)
    """What was sent and may have reached a backend though no answer of one came back."""
    lines: list[str] = field(default_factory=list)
    """What backends got, by their answers."""


def judge(case: Case, sent: bytes, answer: Answer, tally: Tally) -> list[str]:
    """What is wrong with an answer; nothing, if all is well."""
    tally.statuses[answer.status] = tally.statuses.get(answer.status, 0) + 1
    if not answer.ended:  # else it was us that waited
        tally.slow.append(answer.seconds)
    request = http(sent)
    witnessed = [told for message in answer.messages if (told := seen_by_a_backend(message)) is not None]
    for told in witnessed:
        tally.reached += 1
        tally.changed += bool(case.done)
        tally.lines.append(told.line)
    if not witnessed and request is not None:
        tally.unseen += filter(None, readings(request.body, endpoint_of(request.path) or "").values())
    found = list(_faults_of_the_answer(case, request, answer))
    for told in witnessed:
        found += differences(request, told)
    return found


def _faults_of_the_answer(case: Case, request: Http | None, answer: Answer) -> Iterator[str]:
    if answer.status == 0:
        if case.framed:
            yield f"closed without an answer: {answer.body!r}"
        return
    if b"Traceback" in answer.body or b'File "/' in answer.body:
        yield "a traceback"
    if answer.status >= 500 and (case.framed or answer.status not in UNFRAMED):
        yield f"status {answer.status}"
    if answer.status >= 400:
        return
    for message in answer.messages:
        if message and (problem := problem_of_message(message)) is not None:
            yield f"status {answer.status} with {problem}"
    if answer.status == 200 and answer.kind == "application/json" and request is not None:
        yield from _wrong_id(request, answer)


def _wrong_id(request: Http, answer: Answer) -> Iterator[str]:
    if request.method != "POST" or endpoint_of(request.path) is None:
        return
    try:
        asked = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        yield "status 200 for what is no JSON"
        return
    if problem_of_message(answer.body) is not None:
        return  # told already
    given = orjson.loads(answer.body).get("id")
    if not isinstance(asked, dict) or type(asked.get("id")) is not type(given) or asked.get("id") != given:
        yield f"another id: {given!r}"


@dataclass(frozen=True, slots=True)
class Told:
    """What a backend says it got."""

    tool: str
    line: str


def seen_by_a_backend(message: bytes) -> Told | None:
    """What a witness answered; None for any other answer."""
    try:
        result = orjson.loads(message).get("result") or {}
    except (orjson.JSONDecodeError, AttributeError):
        return None
    contents = result.get("content") or result.get("contents") or [{}]
    if "messages" in result:
        contents = [result["messages"][0]["content"]]
    text = contents[0].get("text") or (result.get("completion") or {}).get("values", [None])[0]
    if not isinstance(text, str):
        return None
    told = json.JSONDecoder().decode(text)
    return Told(told["tool"], told["line"])


def differences(request: Http | None, told: Told) -> list[str]:
    """How what a backend got differs from what was asked for, as anybody reads either."""
    if request is None:
        return ["a backend got what is no whole HTTP request"]
    endpoint = endpoint_of(request.path)
    if endpoint is None:
        return [f"a backend got what was sent to {request.path!r}"]
    asked = readings(request.body, endpoint)
    strict = asked["strict"]
    if strict is None:
        return ["a backend got what a strict reader refuses"]
    got = readings(told.line.encode("utf-8", "surrogatepass"), told.tool)
    found = []
    for where, views in (("in front of us", asked), ("at the backend", got)):
        for reader, view in views.items():
            if view is None or not view.same(strict):
                found.append(f"the {reader} reader {where} sees {view}, not {strict}")
    return found + list(header_faults(request, request.body))


def unaccounted(tally: Tally, log: list[str]) -> list[str]:
    """Lines that backends got and that nobody sent."""
    left = list(tally.lines)
    strange = []
    for entry in log:
        told = json.JSONDecoder().decode(entry)
        if told["line"] in left:
            left.remove(told["line"])
            continue
        got = readings(told["line"].encode("utf-8", "surrogatepass"), told["tool"])["strict"]
        if got is None or not any(got.same(sent) for sent in tally.unseen):
            strange.append(told["line"])
    return strange
