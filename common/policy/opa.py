"""The evaluator ``opa``: an Open Policy Agent is asked over its REST API.

``POST <url>`` with ``{"input": question}``; ``result`` is true or false, or an object with ``allow``, and with
``reason`` and ``rule`` if it likes. No ``result`` is OPA's word for undefined: it denies.

Source: https://www.openpolicyagent.org/docs/rest-api, "Get a Document (with Input)".
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import Any

import httpx
import orjson
from cachetools import TTLCache

from common.domain.egress import EgressRules
from common.domain.policy import Question
from common.egress.client import guarded_client
from common.ports import PolicyAnswer

MOST_BYTES = 64 * 1024
"""Of an answer."""
MOST_CACHED = 10_000
UNDEFINED = "the policy has no answer"


class OpaEvaluator:
    """Keeps connections, and answers for ``cache_ttl`` seconds: not those on counters, which differ all the time."""

    def __init__(
        self,
        url: str,
        *,
        egress: EgressRules,
        token: str | None,
        timeout: float,
        connections: int,
        cache_ttl: float,
    ) -> None:
        """``timeout`` is in seconds; ``egress`` is held against where the URL leads, as for tools of the file."""
        self._url = url
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        # Neither proxies nor certificates of the environment: a question holds what callers send.
        self._http = guarded_client(
            egress, local=True, timeout=timeout, connections=connections, headers=headers
        )
        self._lock = threading.Lock()
        self._known: TTLCache[bytes, PolicyAnswer] | None = (
            TTLCache(MOST_CACHED, cache_ttl) if cache_ttl else None
        )

    def evaluate(self, question: Question) -> PolicyAnswer:
        """Raises ``httpx.HTTPError`` or ValueError if there is no answer."""
        given = question.as_json()
        if self._known is None or question.counters is not None:
            return self._ask(given)
        digest = hashlib.sha256(_json({**given, "request_id": ""})).digest()
        with self._lock:
            found = self._known.get(digest)
        if found is None:
            found = self._ask(given)
            with self._lock:
                self._known[digest] = found
        return found

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def _ask(self, given: Mapping[str, Any]) -> PolicyAnswer:
        with self._http.stream("POST", self._url, content=_json({"input": given})) as response:
            raw = b""
            for piece in response.iter_raw():
                raw += piece
                if len(raw) > MOST_BYTES:
                    raise ValueError("the answer is too large")
        if response.status_code != httpx.codes.OK:
            raise ValueError("the answer has another status than 200")
        return _answer(orjson.loads(raw))


def _json(value: object) -> bytes:
    # Keys of arguments are sorted, so that the same question has the same digest.
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _answer(body: object) -> PolicyAnswer:
    """What the body of an answer says. Raises ValueError for what says nothing."""
    if not isinstance(body, dict):
        raise TypeError("the answer is no object")
    if "result" not in body:
        return PolicyAnswer(allow=False, reason=UNDEFINED)
    result = body["result"]
    if isinstance(result, bool):
        return PolicyAnswer(allow=result)
    if isinstance(result, dict) and isinstance(result.get("allow"), bool):
        return PolicyAnswer(allow=result["allow"], reason=_text(result, "reason"), rule=_text(result, "rule"))
    raise ValueError("the result is neither a boolean nor an object with allow")


def _text(result: Mapping[str, Any], name: str) -> str:
    found = result.get(name, "")
    return found if isinstance(found, str) else ""
