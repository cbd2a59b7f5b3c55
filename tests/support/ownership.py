"""I7, one owner: by what the backends saw, and by the fencing tokens in the workers' logs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from tests.support.history import History, Seen, SessionLine
from tests.support.verdict import Rules, Violation


def one_owner(history: History, rules: Rules) -> Iterator[Violation]:
    """I7: by what the backends saw, and by the tokens in the workers' logs."""
    yield from _judge_turns(history, rules)
    yield from _judge_tokens(history)
    yield from _judge_token_order(history)


def _judge_turns(history: History, rules: Rules) -> Iterator[Violation]:
    """A caller's backend sessions are used one after the other: none again once its successor was.

    A worker may have two for a caller who speaks both eras; those of two workers never take turns.
    """
    used = [
        event
        for event in history.seen
        if event.kind == "got" and event.marker and event.tool not in rules.shared
    ]
    workers = _workers(history)
    yield from _turns((event, str(event.marker), str(event.era)) for event in used)
    yield from _turns((event, str(workers[event.marker]), "") for event in used if event.marker in workers)


def _turns(uses: Iterable[tuple[Seen, str, str]]) -> Iterator[Violation]:
    """Uses with their place and their part of the caller: a session left for another place is never used again."""
    present: dict[tuple[str, ...], str] = {}
    now: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    past: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for event, place, part in uses:
        key, marker = (event.tool, str(event.tenant), str(event.client), part), str(event.marker)
        if marker in past[key]:
            text = f"the session {marker} of {key} was used again after those at {present[key]}"
            yield Violation(invariant="I7", text=text, call=event.call)
            continue
        if present.get(key) != place:
            past[key] |= now.pop(key, set())
            present[key] = place
        now[key].add(marker)


def _workers(history: History) -> dict[str | None, int]:
    """The pid of the worker below which each backend session runs, where it is known."""
    started = {fault.pid for fault in history.faults if fault.kind == "worker" and fault.what == "start"}
    return {
        opened.marker: next(pid for pid in opened.ancestors if pid in started)
        for opened in history.opened
        if started & set(opened.ancestors)
    }


def _judge_tokens(history: History) -> Iterator[Violation]:
    """No token of a session belongs to two workers."""
    workers: defaultdict[tuple[str, str, int], set[str]] = defaultdict(set)
    for line in history.sessions:
        workers[line.tool, line.session, line.fence].add(line.worker)
    for (tool, session, fence), found in workers.items():
        if len(found) > 1:
            text = f"the token {fence} of {session} with {tool} was held by {sorted(found)}"
            yield Violation(invariant="I7", text=text)


def _judge_token_order(history: History) -> Iterator[Violation]:
    """No backend gets a message with an older token than one before of another worker.

    A worker whose claim Redis forgot claims the same session anew, and its backend's session keeps the token it began
    with: that is no second owner.
    """
    holders = _holders(history)
    highest: dict[tuple[str, str], SessionLine] = {}
    for event in history.seen:
        line = holders.get(event.marker) if event.kind == "got" and event.marker is not None else None
        if line is None:
            continue
        before = highest.get((line.tool, line.session))
        if before is not None and line.fence < before.fence and line.worker != before.worker:
            text = (
                f"{line.session} of {event.tool} got a message with token {line.fence} after {before.fence}"
            )
            yield Violation(invariant="I7", text=text, call=event.call)
        elif before is None or line.fence > before.fence:
            highest[line.tool, line.session] = line


def _holders(history: History) -> dict[str, SessionLine]:
    """For each backend session the worker's line about its start, found by the process it runs in."""
    lines: defaultdict[int, list[SessionLine]] = defaultdict(list)
    for line in history.sessions:
        if line.kind == "session_opened" and line.pid is not None:
            lines[line.pid].append(line)
    return {
        opened.marker: min(found, key=lambda line, wall=opened.wall: abs(line.wall - wall))  # type: ignore[misc]
        for opened in history.opened
        if opened.marker is not None and (found := lines.get(opened.pid))
    }
