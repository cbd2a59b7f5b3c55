"""What a client is told to do with a backend, and what has to come of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import orjson

Json = dict[str, Any]
Do = Literal["tools", "call", "cancel", "resources", "templates", "read", "prompts", "prompt"]
SCENARIOS = ("list", "call", "progress", "cancel", "resource", "prompt", "elicitation", "sampling")

ELICITATION, SAMPLING = "elicitation/create", "sampling/createMessage"
ANSWERS: Json = {
    ELICITATION: {"action": "accept", "content": {"name": "Ada", "context": "Ada's", "ok": True}},
    SAMPLING: {"role": "assistant", "model": "m", "content": {"type": "text", "text": "Paris"}},
}
"""What every client answers when it is asked. It has no roots: servers ask for them whenever they like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation of a client.

    ``expected`` stands somewhere in the result's texts; the client is ``asked`` these methods meanwhile, in any
    order, and hears of this ``progress``.
    """

    do: Do
    name: str = ""
    arguments: tuple[tuple[str, Any], ...] = ()
    uri: str = ""
    expected: str = ""
    asked: tuple[str, ...] = ()
    progress: tuple[float, ...] = ()

    def as_json(self) -> Json:
        """Return it as the clients take it."""
        told: Json = {"do": self.do}
        if self.do in {"call", "cancel", "prompt"}:
            told |= {"name": self.name, "arguments": dict(self.arguments)}
        return told | ({"uri": self.uri} if self.uri else {})

    def check(self, outcome: Json) -> None:
        """Fail if the outcome is not what it has to be."""
        shown = orjson.dumps(outcome).decode()[:2000]
        if self.do == "cancel":
            assert "taken back" in outcome.get("error", {}).get("message", ""), shown
        else:
            assert "error" not in outcome, shown
            assert not outcome["result"].get("isError"), shown
            assert self.expected in "\n".join(texts(outcome["result"])), shown
        assert sorted(request["method"] for request in outcome["asked"]) == sorted(self.asked), shown
        assert [told["progress"] for told in outcome["progress"]] == list(self.progress), shown


Script = dict[str, list[Step]]
"""Scenario -> steps."""


def call(name: str, expected: str, *, asked: tuple[str, ...] = (), **arguments: Any) -> Step:
    """Return a ``tools/call`` with what its answer has to say."""
    return Step(do="call", name=name, arguments=tuple(arguments.items()), expected=expected, asked=asked)


def prompt(name: str, expected: str, *, asked: tuple[str, ...] = (), **arguments: str) -> Step:
    """Return a ``prompts/get`` with what its answer has to say."""
    return Step(do="prompt", name=name, arguments=tuple(arguments.items()), expected=expected, asked=asked)


def texts(value: Any) -> Iterator[str]:
    """All strings of a result, at whatever depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from texts(child)
    elif isinstance(value, list):
        for child in value:
            yield from texts(child)
