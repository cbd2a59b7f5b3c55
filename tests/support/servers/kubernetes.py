"""The part of a Kubernetes API server that lists and watches Services, which can also be made to misbehave.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/, "Efficient detection of changes", "Retrieving
large results sets in chunks", "Watch bookmarks".
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import orjson

Json = dict[str, Any]


def service(
    name: str,
    namespace: str = "tools",
    /,
    *,
    ports: list[Json] | None = None,
    kind: str = "ClusterIP",
    born: str = "2026-01-01T00:00:00Z",
    labels: Mapping[str, str] | None = None,
    **notes: str,
) -> Json:
    """A Service; ``notes`` are annotations under ``canalgate.dev/``, with _ for -."""
    annotations = {f"canalgate.dev/{key.replace('_', '-')}": value for key, value in notes.items()}
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "creationTimestamp": born,
            "labels": {"canalgate.dev/mcp": "true", **(labels or {})},
            "annotations": annotations,
        },
        "spec": {"type": kind, "ports": ports or [{"port": 8080, "protocol": "TCP"}]},
    }


class _Noted(NamedTuple):
    """A line for watches. One without a version is for those that stand when it is noted."""

    number: int
    version: int
    namespace: str
    line: bytes


class KubernetesApi:
    """What is in the cluster, and how it was asked. Thread safe."""

    def __init__(self) -> None:
        self.url = ""
        self.token: str | None = None
        """Who asks has to show it; None: nobody has to."""
        self.statuses: list[tuple[int, dict[str, str]]] = []
        """Answers to give in the place of the next ones: status and headers."""
        self.watch_statuses: list[int] = []
        """The same for watches alone."""
        self.endless = False
        """Whether the bodies of those have no end: the server waits for the client to leave."""
        self.bodies: list[bytes] = []
        """Bodies to answer the next lists with."""
        self.refused: dict[str, tuple[str, ...]] = {}
        """By namespace, which of ``list`` and ``watch`` its RBAC does not allow."""
        self.bookmarks = False
        """Whether a watch begins with one of the newest version."""
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Path and parameters of each."""
        self._services: dict[tuple[str, str], Json] = {}
        self._version = 100
        self._oldest = 0
        self._number = 0
        self._log: list[_Noted] = []
        self._changed = threading.Condition()
        self._cut = 0
        self._watching = 0

    # -- the cluster ---------------------------------------------------------------------------------------

    def put(self, *services: Json) -> None:
        """Add or change them."""
        with self._changed:
            for found in services:
                key = (found["metadata"]["namespace"], found["metadata"]["name"])
                self._tell("MODIFIED" if key in self._services else "ADDED", found)
                self._services[key] = found

    def remove(self, name: str, namespace: str = "tools") -> None:
        """Take one away."""
        with self._changed:
            self._tell("DELETED", self._services.pop((namespace, name)))

    def replace(self, *services: Json) -> None:
        """Have exactly these."""
        wanted = {(found["metadata"]["namespace"], found["metadata"]["name"]): found for found in services}
        for namespace, name in set(self._services) - set(wanted):
            self.remove(name, namespace)
        self.put(*(found for key, found in wanted.items() if self._services.get(key) != found))

    def churn(self) -> None:
        """Something that has nothing to do with services moves the versions on."""
        with self._changed:
            self._version += 1000

    def forget(self) -> None:
        """Compact: no watch may begin behind what was."""
        with self._changed:
            self._oldest = self._version + 1
            self._version += 1
            self._log.clear()

    def send(self, event: Json | bytes) -> None:
        """Put anything into all watches that stand."""
        with self._changed:
            self._note(0, "", event if isinstance(event, bytes) else orjson.dumps(event))

    def cut(self) -> None:
        """Break all watches off, in the middle of their streams."""
        with self._changed:
            self._cut += 1
            self._changed.notify_all()

    @property
    def watching(self) -> int:
        """Watches that stand."""
        return self._watching

    def lists(self) -> int:
        """How often everything was listed (first pages)."""
        return sum("watch" not in asked and "continue" not in asked for _, asked in self.requests)

    def _tell(self, kind: str, found: Json) -> None:
        self._version += 1
        found["metadata"]["resourceVersion"] = str(self._version)
        line = orjson.dumps({"type": kind, "object": found})
        self._note(self._version, found["metadata"]["namespace"], line)

    def _note(self, version: int, namespace: str, line: bytes) -> None:
        self._number += 1
        self._log.append(_Noted(self._number, version, namespace, line))
        self._changed.notify_all()

    # -- answers -------------------------------------------------------------------------------------------

    def list(self, namespace: str, asked: Mapping[str, str]) -> Json:
        """One page; the rest is named by where it begins."""
        with self._changed:
            found = [one for (place, _), one in sorted(self._services.items()) if namespace in ("", place)]
            begin, most = int(asked.get("continue", "0")), int(asked.get("limit", "1000"))
            more = {"continue": str(begin + most)} if begin + most < len(found) else {}
            items = found[begin : begin + most] or None
            return {
                "kind": "ServiceList",
                "metadata": {"resourceVersion": str(self._version), **more},
                "items": items,
            }

    def events(self, namespace: str, asked: Mapping[str, str]) -> Iterator[bytes]:
        """Lines of a watch, until its time is over or it is cut. Empty ones are looks whether the client is there."""
        end, version = time.monotonic() + int(asked["timeoutSeconds"]), int(asked["resourceVersion"])
        with self._changed:
            cut, begun = self._cut, self._number
            if version < self._oldest:
                yield orjson.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410}})
                return
            if self.bookmarks:
                mark = {"kind": "Service", "metadata": {"resourceVersion": str(self._version)}}
                yield orjson.dumps({"type": "BOOKMARK", "object": mark})
        told = 0
        while time.monotonic() < end:
            with self._changed:
                if self._cut > cut:
                    raise ConnectionAbortedError
                fresh = [found for found in self._log if found.number > told]
                if not fresh:
                    self._changed.wait(0.2)
            for found in fresh:
                told = found.number
                new = found.version > version if found.version else found.number > begun
                if new and namespace in ("", found.namespace):
                    yield found.line


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: KubernetesApi

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        api, parts = self.api, urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        api.requests.append((parts.path, asked))
        steps = parts.path.strip("/").split("/")
        namespace = steps[3] if "namespaces" in steps else ""
        if api.token is not None and self.headers.get("Authorization") != f"Bearer {api.token}":
            self._send(401, {})
        elif ("watch" if "watch" in asked else "list") in api.refused.get(namespace, ()):
            self._send(403, {})
        elif "watch" in asked:
            self._watch(namespace, asked)
        elif api.statuses:
            self._send(*api.statuses.pop(0))
        elif api.bodies:
            self._send(200, {}, api.bodies.pop(0))
        else:
            self._send(200, {}, orjson.dumps(api.list(namespace, asked)))

    def _send(self, status: int, headers: Mapping[str, str], body: bytes = b'{"kind": "Status"}') -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_without_end(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(1 << 40))
        self.end_headers()
        self.wfile.write(b'{"kind": ')
        self.close_connection = True
        with suppress(OSError):
            self.rfile.read(1)

    def _watch(self, namespace: str, asked: Mapping[str, str]) -> None:
        api = self.api
        if api.watch_statuses:
            status = api.watch_statuses.pop(0)
            if api.endless:
                self._send_without_end(status)
            else:
                self._send(status, {})
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        api._watching += 1
        try:
            for line in api.events(namespace, asked):
                # In pieces that have nothing to do with lines.
                for piece in (line[: len(line) // 2], line[len(line) // 2 :] + b"\n"):
                    if piece:
                        self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True
        finally:
            api._watching -= 1


@contextmanager
def running_kubernetes(tls: ssl.SSLContext | None = None) -> Iterator[KubernetesApi]:
    """An API server; with ``tls`` it speaks HTTPS."""
    api = KubernetesApi()
    handler = type("Handler", (_Handler,), {"api": api})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        api.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield api
        finally:
            api.cut()
            server.shutdown()
            thread.join()
