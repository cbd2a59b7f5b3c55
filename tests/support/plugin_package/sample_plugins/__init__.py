"""One class of each kind that a gateway can be given, as small as it can be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.domain.audit_chain import SealedRecord
from common.domain.credentials import CredentialRequest, Credentials
from common.domain.errors import InvalidRequest
from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller
from common.domain.policy import Question
from common.ports import ExecutorCall, ExecutorSession, PolicyAnswer, RemoteError, RequestFacts
from common.settings import IdentitySettings
from common.settings.credentials import CredentialsSettings


class Resolver:
    """Callers say who they are: for tests alone."""

    def __init__(self, settings: IdentitySettings) -> None:
        self._settings = settings

    def resolve(self, request: RequestFacts) -> Caller | None:
        value = request.headers.get("x-sample")
        if value is None:
            return None
        tenant, _, client = value.partition("/")
        if not tenant or not client:
            raise InvalidRequest("x-sample must be <tenant>/<client>", field="x-sample")
        return Caller(tenant=TenantId(tenant), client=ClientId(client))


class Evaluator:
    """Denies calls with a certain text."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._denied = options["denied"]

    def evaluate(self, question: Question) -> PolicyAnswer:
        allow = question.arguments.get("text") != self._denied
        return PolicyAnswer(allow=allow, reason="" if allow else "this text is denied")


class Provider:
    """A key for each tenant."""

    def __init__(self, settings: CredentialsSettings) -> None:
        self._settings = settings

    async def resolve(self, request: CredentialRequest) -> Credentials | None:
        return Credentials.of({"key": f"key-of-{request.tenant or request.tool}"})


class Sink:
    """Kinds of events, one a line."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._path = Path(options["path"])
        self._safe = 0

    def write(self, records: Sequence[SealedRecord]) -> int:
        with self._path.open("a", encoding="utf-8") as file:
            for record in records:
                if record.seq > self._safe:
                    file.write(json.dumps(record.event["kind"]) + "\n")
                    self._safe = record.seq
        return self._safe

    def close(self) -> None:
        """Nothing is held."""


class Source:
    """Always the same tools."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._tools = options["tools"]

    def watch(self, wanted: Callable[[], bool]) -> Iterator[Mapping[str, Mapping[str, Any]]]:
        yield self._tools
        while wanted():
            time.sleep(0.1)


class Factory:
    """An MCP server in the worker itself, whose one tool says what it was told, and its key."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)

    async def open(self, session: ExecutorSession) -> Executor:
        return Executor(session)


class Executor:
    """One session."""

    def __init__(self, session: ExecutorSession) -> None:
        self._session = session

    async def request(self, call: ExecutorCall) -> Mapping[str, Any]:
        match call.method:
            case "initialize":
                return {
                    "protocolVersion": call.params["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "sample", "version": "1"},
                }
            case "ping":
                return {}
            case "tools/list":
                return {"tools": [{"name": "say", "inputSchema": {"type": "object"}}]}
            case "tools/call":
                said = f"{call.params['arguments']['text']} {self._session.secrets.get('key', 'no key')}"
                return {"content": [{"type": "text", "text": said}]}
        raise RemoteError(-32601, f"Method not found: {call.method}")

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Nothing is noted."""

    async def close(self) -> None:
        """Nothing is held."""
