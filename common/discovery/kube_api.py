"""The Kubernetes API as far as discovery needs it: list and watch Services."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import orjson

from common.domain.errors import ConfigurationError
from common.egress.client import AsyncGuarded
from common.settings.kubernetes import KubernetesSettings

PAGE = 500
"""Services of one answer to a list; half as many, and so on, where that is too large."""
MOST_BYTES = 16 * 1024 * 1024
"""The largest answer to a list, and the largest event of a watch."""
WATCH_GRACE = 10.0
"""Seconds that a watch may be silent beyond the time at which the server is to end it."""
LIST_TIME = 30.0
_REFUSED = {
    401: "it does not know who asks",
    403: "its RBAC does not let it",
    404: "it knows no such resource",
}
Json = dict[str, Any]


class Gone(Exception):
    """The version is too old: everything is to be listed anew."""


class Passing(Exception):
    """What may be over in a moment: no connection, 429, 5xx. ``after``: seconds to leave the server alone."""

    def __init__(self, words: str, after: float = 0.0) -> None:
        super().__init__(words)
        self.after = after


class _TooLarge(Passing):
    """An answer above :data:`MOST_BYTES`."""


class Event(NamedTuple):
    """One line of a watch. ``kind`` is ADDED, MODIFIED, DELETED or BOOKMARK, or OPENED: the server has agreed to it."""

    kind: str
    item: Json
    version: str


class KubeApi:
    """On an open client, which it does not close. The token is read anew for each request: it is rotated."""

    def __init__(self, client: AsyncGuarded, settings: KubernetesSettings) -> None:
        self._client = client
        self._url = server_url(settings)
        self._token_file = settings.token_file
        self._selector = settings.selector
        self._pages: dict[str, int] = {}
        """Services of a page, by namespace, where :data:`PAGE` is too large."""

    async def list(self, namespace: str, keep: Callable[[Json], None]) -> str:
        """Give all services of a namespace (empty: of all) to ``keep``; the version from which to watch.

        Pages that are too large are asked for anew, half as long: ``keep`` may see a service twice. Raises
        :class:`Passing`, :class:`ConfigurationError` for what does not pass by itself, and :class:`Gone`.
        """
        while True:
            most = self._pages.get(namespace, PAGE)
            try:
                return await self._list(namespace, most, keep)
            except _TooLarge:
                if most == 1:
                    raise
                # From the start: the place to go on from is good for a list with the same parameters alone.
                self._pages[namespace] = most // 2

    async def _list(self, namespace: str, most: int, keep: Callable[[Json], None]) -> str:
        where = ""
        while True:
            more = {"continue": where} if where else {}
            page = await self._page(namespace, {"limit": str(most), **more})
            found, about = page.get("items"), page.get("metadata")
            if not isinstance(about, dict) or not isinstance(about.get("resourceVersion"), str):
                raise Passing("it answered a list with something else")
            # A list without any has null there, or nothing.
            if found is not None and not isinstance(found, list):
                raise Passing("it answered a list with something else")
            for item in found or ():
                if isinstance(item, dict):
                    keep(item)
            where = about.get("continue") or ""
            if not where:
                version: str = about["resourceVersion"]
                return version

    async def watch(self, namespace: str, version: str, seconds: int) -> AsyncIterator[Event]:
        """What changes behind ``version``, until the server ends it after ``seconds``. Raises as :meth:`list`."""
        params = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        timeout = httpx.Timeout(LIST_TIME, read=seconds + WATCH_GRACE)
        try:
            async with self._client.stream(
                "GET",
                self._path(namespace),
                params=self._params(params),
                headers=self._headers(),
                timeout=timeout,
            ) as answer:
                if answer.status_code != 200:
                    # Its body is left where it is: nothing bounds it.
                    raise self._fault(answer, namespace)
                yield Event("OPENED", {}, version)
                async for line in _lines(answer):
                    yield _event(line)
        except httpx.HTTPError as error:
            raise Passing(f"the watch broke: {type(error).__name__}") from error

    async def _page(self, namespace: str, more: Mapping[str, str]) -> Json:
        params = self._params(more)
        try:
            async with self._client.stream(
                "GET", self._path(namespace), params=params, headers=self._headers(), timeout=LIST_TIME
            ) as answer:
                body = await _bounded(answer)
        except httpx.HTTPError as error:
            raise Passing(f"not reached: {type(error).__name__}") from error
        if answer.status_code != 200:
            raise self._fault(answer, namespace)
        return _object(body)

    def _path(self, namespace: str) -> str:
        place = f"/namespaces/{namespace}" if namespace else ""
        return f"{self._url}/api/v1{place}/services"

    def _params(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"labelSelector": self._selector, **more}

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self._token_file:
            try:
                token = Path(self._token_file).read_text(encoding="ascii").strip()
            except (OSError, ValueError) as error:
                raise ConfigurationError(f"token_file {self._token_file}: {type(error).__name__}") from None
            headers["Authorization"] = f"Bearer {token}"
        return headers

    @staticmethod
    def _fault(answer: httpx.Response, namespace: str) -> Exception:
        status = answer.status_code
        if status == 410:
            return Gone()
        if status in _REFUSED:
            place = f"namespace {namespace}" if namespace else "all namespaces"
            return ConfigurationError(
                f"the API server answers {status} to listing and watching services of {place}: {_REFUSED[status]}"
            )
        after = answer.headers.get("retry-after", "")
        return Passing(f"it answers {status}", float(after) if after.isdecimal() else 0.0)


def server_url(settings: KubernetesSettings) -> str:
    """Where the API server is. Raises :class:`ConfigurationError` outside a cluster."""
    if settings.api_url is not None:
        return settings.api_url.rstrip("/")
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigurationError("this is no pod of a cluster: give kubernetes.api_url")
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


async def _bounded(answer: httpx.Response) -> bytes:
    body = b""
    async for part in answer.aiter_bytes():
        body += part
        if len(body) > MOST_BYTES:
            raise _TooLarge("its answer is too large")
    return body


async def _lines(answer: httpx.Response) -> AsyncIterator[bytes]:
    rest = b""
    async for part in answer.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
        if len(rest) > MOST_BYTES:
            raise Passing("an event is too large")


def _event(line: bytes) -> Event:
    """Raises :class:`Gone` for the event that says so, and :class:`Passing` for what is none."""
    found = _object(line)
    kind, item = found.get("type"), found.get("object")
    if not isinstance(kind, str) or not isinstance(item, dict):
        raise Passing("an event is none")
    if kind == "ERROR":
        if item.get("code") == 410:
            raise Gone
        raise Passing(f"the watch ended with {item.get('code')}")
    about = item.get("metadata")
    version = about.get("resourceVersion") if isinstance(about, dict) else None
    if not isinstance(version, str):
        raise Passing("an event has no version")
    return Event(kind, item, version)


def _object(body: bytes) -> Json:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise Passing("its answer is no JSON object")
    return found
