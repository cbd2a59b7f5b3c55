"""What is done to a request before it is written."""

# ruff: noqa: RUF001 - what is ambiguous is so on purpose

from __future__ import annotations

import base64
from typing import Any

from tests.support.fuzz.odd import TOKENS, WORDS, value
from tests.support.fuzz.requests import LEGACY, META, METHODS, MODERN, SESSION, Draft
from tests.support.fuzz.text import Pairs, Raw, pairs

# -- the message ------------------------------------------------------------------------------------------


def _objects(node: Any) -> list[Pairs]:
    found = [node] if isinstance(node, Pairs) else []
    children = (
        [inner for _, inner in node] if isinstance(node, Pairs) else node if isinstance(node, list) else []
    )
    return found + [deeper for child in children for deeper in _objects(child)]


def _spot(draft: Draft) -> tuple[Pairs, int] | None:
    """A member of some object of the message."""
    objects = [found for found in _objects(draft.message) if found]
    if not objects:
        return None
    chosen = draft.rng.choice(objects)
    return chosen, draft.rng.randrange(len(chosen))


def _member_replaced(draft: Draft) -> None:
    if (spot := _spot(draft)) is not None:
        members, at = spot
        odd: Any = draft.rng.choice((Raw(draft.rng.choice(TOKENS)), pairs(value(draft.rng, 2))))
        members[at] = (members[at][0], odd)


def _member_dropped(draft: Draft) -> None:
    if (spot := _spot(draft)) is not None:
        del spot[0][spot[1]]


def _member_twice(draft: Draft) -> None:
    """The same name again, before or behind, with another value or the same."""
    if (spot := _spot(draft)) is not None:
        members, at = spot
        name, old = members[at]
        rng = draft.rng
        other = rng.choice(
            (old, pairs(value(rng, 1)), "other", "both__other", "see", "old__see", Pairs([("n", -1)]))
        )
        members.insert(rng.choice((at, at + 1, 0, len(members))), (name, other))


def _look_alike(draft: Draft) -> None:
    """Another member whose name differs by case, or by a letter that some readers fold."""
    if (spot := _spot(draft)) is not None:
        members, at = spot
        name, old = members[at]
        rng = draft.rng
        alike = rng.choice(_folds(name))
        other = rng.choice(
            (old, "other", "both__other", "old__see", Pairs([("n", -1)]), pairs(value(rng, 1)))
        )
        if rng.random() < 0.3:
            members[at] = (alike, old)
        else:
            members.insert(rng.choice((at, at + 1, 0, len(members))), (alike, other))


def _folds(name: str) -> list[str]:
    return [
        name.capitalize(),
        name.upper(),
        name.replace("s", "ſ"),
        name.replace("k", "\u212a"),
        name.title(),
        name + "\u0000",
        name + " ",
        name.swapcase(),
    ]


def _member_added(draft: Draft) -> None:
    objects = _objects(draft.message)
    if objects:
        rng = draft.rng
        names = (
            *WORDS,
            "params",
            "method",
            "id",
            "result",
            "error",
            "name",
            "arguments",
            "uri",
            "ref",
            "_meta",
            "task",
            "requestState",
            "inputResponses",
            "progressToken",
            META + "logLevel",
            "cursor",
            "jsonrpc",
        )
        rng.choice(objects).insert(0, (rng.choice(names), pairs(value(rng, 2))))


def _other_id(draft: Draft) -> None:
    _member(draft, "id", pairs(value(draft.rng, 1)))


def _token_for_id(draft: Draft) -> None:
    _member(draft, "id", Raw(draft.rng.choice(TOKENS)))


def _other_method(draft: Draft) -> None:
    method = draft.rng.choice([name for name, *_ in METHODS] + ["TOOLS/CALL", "tools/call ", "no/such", ""])
    _member(draft, "method", method)
    if draft.modern and draft.rng.random() < 0.7:
        draft.set("Mcp-Method", method)


def _member(draft: Draft, name: str, new: Any) -> None:
    if isinstance(draft.message, Pairs):
        draft.message = Pairs((key, new if key == name else old) for key, old in draft.message)


def _request_state(draft: Draft) -> None:
    """Garbage where a sealed state is awaited."""
    rng = draft.rng
    blob = base64.urlsafe_b64encode(rng.randbytes(rng.choice((0, 8, 60)))).decode()
    state: Any = rng.choice((blob, "cg1." + blob, "canalgate." + blob, 1, None, {}, "x" * 9000))
    params = draft.message.get("params") if isinstance(draft.message, Pairs) else None
    if isinstance(params, Pairs):
        params.append(("requestState", state))
        params.append(
            ("inputResponses", pairs(rng.choice(({}, {"a": {"action": "accept"}}, [], None, value(rng, 2)))))
        )


def _batch(draft: Draft) -> None:
    draft.message = [draft.message] * draft.rng.choice((0, 1, 2))


def _whole(draft: Draft) -> None:
    draft.message = draft.rng.choice((pairs(value(draft.rng, 2)), Raw(draft.rng.choice(TOKENS)), Raw(b"")))


def _escaped(draft: Draft) -> None:
    """``\\u006eame`` is ``name``."""
    draft.escapes = draft.rng.choice((0.05, 0.5, 1.0))


def _spaced(draft: Draft) -> None:
    draft.blanks = 0.3


# -- the headers ------------------------------------------------------------------------------------------


def _header_dropped(draft: Draft) -> None:
    if draft.headers:
        del draft.headers[draft.rng.randrange(len(draft.headers))]


def _header_twice(draft: Draft) -> None:
    name, old = draft.rng.choice(draft.headers or [("Host", "localhost")])
    rng = draft.rng
    name = rng.choice((name, name.lower(), name.upper(), name.replace("-", "_")))
    draft.headers.insert(
        rng.randrange(len(draft.headers) + 1), (name, rng.choice((old, "other", "both__other", "x")))
    )


def _header_value(draft: Draft) -> None:
    if draft.headers:
        rng = draft.rng
        at = rng.randrange(len(draft.headers))
        name, old = draft.headers[at]
        odd = (
            old.upper(),
            f"  {old}\t",
            old + ",",
            old + ";q=0",
            "",
            "x" * 5000,
            "ä",
            "\x7f",
            "*/*",
            "text/plain",
            "application/json; charset=utf-16",
            old + " other",
            '"' + old + '"',
            *LEGACY,
            MODERN,
            "2031-01-01",
            "null",
            SESSION.format(LEGACY[0], draft.endpoint),
        )
        draft.headers[at] = (name, rng.choice(odd))


def _header_encoded(draft: Draft) -> None:
    """``Mcp-Name`` in base64, canonical or not, of the name or of another."""
    rng = draft.rng
    name = rng.choice((draft.header("Mcp-Name") or "see", "other", "both__other", "päivää"))
    text = base64.b64encode(name.encode()).decode()
    draft.set(
        "Mcp-Name",
        rng.choice(
            (
                f"=?base64?{text}?=",
                f"=?base64?{text}",
                f"=?BASE64?{text}?=",
                f"=?base64?{text.rstrip('=')}?=",
                f"=?base64? {text}?=",
            )
        ),
    )


def _other_name(draft: Draft) -> None:
    draft.set(
        draft.rng.choice(("Mcp-Name", "Mcp-Method", "Mcp-Param-X")),
        draft.rng.choice(("other", "see", "both__other")),
    )


def _other_era(draft: Draft) -> None:
    """The header of one era with a message of the other."""
    draft.set("MCP-Protocol-Version", draft.rng.choice((*LEGACY, MODERN, "", "2031-01-01", " " + MODERN)))


def _other_session(draft: Draft) -> None:
    rng = draft.rng
    session = rng.choice(
        (
            SESSION.format(rng.choice(LEGACY), rng.choice(("", draft.endpoint))),
            "nobody",
            "",
            "a" * 600,
            "é",
            "x,y",
            "../..",
            "\t",
        )
    )
    draft.set("Mcp-Session-Id", session)


def _stray_header(draft: Draft) -> None:
    odd = (
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Host", "evil.example"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("Expect", "100-continue"),
        ("Connection", "close"),
        ("Upgrade", "h2c"),
        ("Last-Event-ID", "s.0-0"),
        ("Last-Event-ID", "x"),
        ("Content-Encoding", "gzip"),
        ("Script_Name", "/servers"),
        ("SCRIPT_NAME", "/servers"),
        ("Proxy", "x"),
        ("Authorization", "Bearer x"),
        ("Accept-Encoding", "gzip"),
        ("Cookie", "a=b"),
        ("X-Long", "x" * 9000),
    )
    draft.headers.append(draft.rng.choice(odd))


def _other_path(draft: Draft) -> None:
    draft.path = draft.rng.choice(
        (
            "/mcp/",
            "//mcp",
            "/mcp?x=1",
            "/MCP",
            "/servers/both/mcp",
            "/servers/both%2fmcp",
            "/servers/%62oth/mcp",
            "/servers//mcp",
            "/servers/../mcp",
            "/servers/nobody/mcp",
            "/servers/both/mcp/",
            "/servers/both/old/mcp",
            "/servers/bo\u0000th/mcp",
            "/servers/%00/mcp",
            "/servers/%ff/mcp",
            "http://localhost/mcp",
            "http://evil.example/mcp",
            "*",
            "/",
            "/mcp#x",
            "/mcp;a",
            "/servers/both/mcp?tool=old",
            "/.%2e/mcp",
            "/servers/BOTH/mcp",
            "/readyz",
            "/livez",
            "/sse",
            "/servers/both/sse",
            "/messages",
            "/messages?session_id=nobody",
            "/servers/both/messages?session_id=%ff&session_id=x",
            "/ws",
            "/servers/old/ws",
            "/" + "a" * 5000,
        )
    )


def _other_verb(draft: Draft) -> None:
    draft.verb = draft.rng.choice(
        ("PUT", "GET", "DELETE", "HEAD", "OPTIONS", "PATCH", "post", "TRACE", "CONNECT", "P\u00d6ST")
    )


CHANGES, WEIGHTS = zip(
    *(
        (_member_replaced, 12),
        (_member_dropped, 5),
        (_member_twice, 12),
        (_look_alike, 14),
        (_member_added, 8),
        (_other_id, 5),
        (_token_for_id, 3),
        (_other_method, 5),
        (_request_state, 5),
        (_batch, 2),
        (_whole, 2),
        (_escaped, 10),
        (_spaced, 5),
        (_header_dropped, 4),
        (_header_twice, 7),
        (_header_value, 7),
        (_header_encoded, 5),
        (_other_name, 6),
        (_other_era, 4),
        (_other_session, 4),
        (_stray_header, 4),
        (_other_path, 4),
        (_other_verb, 2),
    ),
    strict=True,
)
