"""Answers of clients to requests of backends, handed to the worker that holds the call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from common.domain.ids import InvocationId, McpSessionId
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.shared import SharedConnection

ANSWER = "answer"
"""What is sealed under the id of the request."""
KEPT_MS = 60_000
"""How long an answer lies for its worker."""


def answerer(session: McpSessionId | None, principal: str) -> str:
    """Who may answer what was asked during a call: its MCP session, or where there is none, its principal."""
    return f"principal:{principal}" if session is None else f"session:{session}"


class ClientAnswers:
    """One a process. Fails closed: without Redis no answer is handed on, and its sender is told so."""

    def __init__(self, connection: SharedConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    def give(
        self, who: str, name: str, response: Mapping[str, Any] | None, *, reply: str | None = None
    ) -> bool:
        """Hand over the response (its ``result`` or its ``error``) to the request of that id.

        Under the id of a call, without a response: its frames are wanted on the channel ``reply`` from now on, what it
        asks included. Returns False if nobody waits for it, or this one was not asked. Raises
        :class:`StoreUnavailable`.
        """
        payload = self._keys.sealed(orjson.dumps({"response": response, "reply": reply}), ANSWER, name)
        keys = [self._keys.server_request(name), self._keys.client_answer(name)]
        with store_errors("handing over a client's answer"):
            return bool(self._connection.run("client_answer", keys, [who, payload, KEPT_MS, name]))

    def give_all(
        self,
        principal: str,
        invocation: InvocationId,
        requests: Iterable[str],
        responses: object,
        *,
        reply: str,
    ) -> bool:
        """Hand over what a client answered to these requests of a call, and take it over to the channel ``reply``.

        Returns whether it still runs. Raises :class:`StoreUnavailable`.
        """
        given = responses if isinstance(responses, Mapping) else {}
        who = answerer(None, principal)
        for name in requests:
            if isinstance(result := given.get(name), Mapping):
                self.give(who, name, {"result": result})
        return self.give(who, invocation, None, reply=reply)
