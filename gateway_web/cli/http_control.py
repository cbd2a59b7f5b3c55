"""The admin API over HTTP: of a gateway elsewhere, or, through another transport, of this very process."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import httpx
import orjson

from common import __version__
from common.domain.errors import ErrorCode, InvocationTimeout, StoreUnavailable
from gateway_web.cli.control import (
    Conflict,
    ControlRefused,
    NoGateway,
    Query,
    Reply,
    ServerEvent,
    UntrustedGateway,
)

PREFIX = "/admin/v1"
PROBLEM_JSON = "application/problem+json"
SILENCE = 90.0
"""Seconds without a byte after which a stream counts as broken; a gateway sends something well within that."""


class HttpControl:
    """A ``ControlClient``. The token is sent to ``url`` alone: no redirect is followed."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        timeout: float,
        tls: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """``url`` is the gateway's base, without the path of the API; ``timeout`` is in seconds."""
        self._url = url
        self._token = token
        self._timeout = timeout
        self._http = httpx.Client(
            timeout=timeout,
            verify=tls,
            trust_env=False,
            transport=transport,
            headers={"user-agent": f"canalgate-cli/{__version__}"},
        )

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        content = None if body is None else orjson.dumps(body)
        sent = {
            **self._headers(),
            **({} if body is None else {"content-type": "application/json"}),
            **(headers or {}),
        }
        with self._faults():
            answer = self._http.request(
                method, f"{self._url}{PREFIX}{path}", params=_given(query), content=content, headers=sent
            )
        if not answer.is_success:
            raise self._refusal(answer)
        return Reply(body=self._json(answer), status=answer.status_code, version=_version(answer))

    @contextmanager
    def events(
        self, path: str, *, query: Query | None = None, after: str | None = None
    ) -> Iterator[Iterator[ServerEvent]]:
        sent = {**self._headers(), "accept": "text/event-stream"}
        sent |= {} if after is None else {"last-event-id": after}
        patience = httpx.Timeout(self._timeout, read=SILENCE)
        with (
            self._faults(),
            self._http.stream(
                "GET", f"{self._url}{PREFIX}{path}", params=_given(query), headers=sent, timeout=patience
            ) as answer,
        ):
            if not answer.is_success:
                answer.read()
                raise self._refusal(answer)
            yield _events(answer.iter_lines())

    def _headers(self) -> dict[str, str]:
        return {} if self._token is None else {"authorization": f"Bearer {self._token}"}

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Whatever keeps an answer from coming, as one of our errors."""
        try:
            yield
        except httpx.InvalidURL as error:
            raise NoGateway(f"{self._url} is no URL: {error}") from None
        except httpx.ReadTimeout as error:
            raise InvocationTimeout(
                f"nothing came from {self._url} for {self._timeout:g} s (--timeout); whether it was done is unknown"
            ) from error
        except httpx.TransportError as error:
            if (flaw := _tls_flaw(error)) is not None:
                raise UntrustedGateway(
                    f"the certificate of {self._url} is not trusted: {flaw}; name its authority with --ca-file"
                    if isinstance(flaw, ssl.SSLCertVerificationError)
                    else f"no TLS with {self._url}: {flaw.reason or flaw}; is it http:// there?"
                ) from None
            raise NoGateway(
                f"no gateway answers at {self._url}: start one, or name it with --url or CANALGATE_URL"
            ) from error

    def _json(self, answer: httpx.Response) -> Any:
        if answer.status_code == HTTPStatus.NO_CONTENT:
            return None
        try:
            return orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            raise NoGateway(f"what answers at {self._url} is no admin API: it sent no JSON") from None

    def _refusal(self, answer: httpx.Response) -> ControlRefused | StoreUnavailable:
        status = answer.status_code
        if answer.headers.get("content-type", "").partition(";")[0] != PROBLEM_JSON:
            return self._stranger(answer)
        problem = orjson.loads(answer.content)
        message, field, code = problem["detail"], problem.get("field"), problem.get("code")
        data = {"code": code, "field": field, **(problem.get("data") or {})}
        if code == ErrorCode.STORE_UNAVAILABLE:
            return StoreUnavailable(message)
        if status == HTTPStatus.UNAUTHORIZED:
            message = f"{message}; it must be one of admin.tokens (--token-file, CANALGATE_TOKEN)"
        if status == HTTPStatus.PRECONDITION_FAILED:
            found = data.get("version")
            message = (
                f"it is at version {found} by now, somebody else changed it: look at it again, then name that version"
                if found
                else message
            )
        if field and not field.startswith("header.") and field.rpartition(".")[2] not in message:
            message = f"{field}: {message}"
        if status in {HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.PRECONDITION_REQUIRED}:
            if conflicts := data.get("conflicts"):
                message = f"{message} (left as they are: {', '.join(conflicts)})"
            return Conflict(message, status=status, **data)
        return ControlRefused(message + _later(answer), status=status, **data)

    def _stranger(self, answer: httpx.Response) -> ControlRefused:
        """A refusal that is not the admin API's: of a proxy before it, or of a gateway that does not serve it."""
        status = answer.status_code
        told = f"{self._url} answers {status} {answer.reason_phrase}".rstrip()
        if answer.is_redirect:
            target = answer.headers.get("location", "elsewhere")
            return ControlRefused(
                f"{told} and points to {target}: name the gateway itself with --url",
                status=status,
                code="REDIRECT",
            )
        if status == HTTPStatus.NOT_FOUND:
            told = f"there is no admin API at {self._url}: set admin.enabled there, and give --url without a path"
        return ControlRefused(told + _later(answer), status=status, code=f"HTTP {status}")


def _given(query: Query | None) -> dict[str, Any]:
    plain = {name: value for name, value in (query or {}).items() if value not in (None, [])}
    return {name: str(value).lower() if isinstance(value, bool) else value for name, value in plain.items()}


def _later(answer: httpx.Response) -> str:
    after = answer.headers.get("retry-after", "")
    return f"; try again in {after} s" if after.isdigit() else ""


def _version(answer: httpx.Response) -> int | None:
    tag = answer.headers.get("etag", "").strip('"')
    return int(tag) if tag.isdigit() else None


def _tls_flaw(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _events(lines: Iterator[str]) -> Iterator[ServerEvent]:
    """Server-sent events as the standard reads them, as far as the admin API uses it."""
    name, kind, data = "", "message", ""
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if name or data:
                yield ServerEvent(id=name, kind=kind, data=orjson.loads(data) if data else None)
            kind, data = "message", ""
        elif field == "id":
            name = value
        elif field == "event":
            kind = value
        elif field == "data":
            data += value
