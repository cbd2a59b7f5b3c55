"""A WSGI application for the listener's tests, under the product's own worker class."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.settings import load
from gateway_web.http import WEB_SETTINGS, HttpRequest
from gateway_web.ingress.disconnect import hung_up


class App:
    """``/say``: what the request is like; ``/endless``: more than anybody reads; ``/wait``: until the client leaves."""

    def __init__(self) -> None:
        self.config = {WEB_SETTINGS: load().web}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        path = environ["PATH_INFO"]
        if path == "/endless":
            return self._endless()
        if path == "/wait":
            return self._waiting(environ)
        body = environ["wsgi.input"].read()
        words = [
            environ["wsgi.url_scheme"],
            HttpRequest(environ).tls_subject or "nobody",
            str(len(body)),
            str(os.getpid()),
        ]
        return ["|".join(words).encode()]

    def _endless(self) -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            note("cut off")

    def _waiting(self, environ: dict[str, Any]) -> Iterator[bytes]:
        yield b"waiting"
        until = time.monotonic() + 20
        while not hung_up(environ) and time.monotonic() < until:
            time.sleep(0.02)
        note("left" if time.monotonic() < until else "never left")


def note(word: str) -> None:
    """For the test to read."""
    with Path(os.environ["NOTES"]).open("a", encoding="utf-8") as file:
        file.write(f"{word}\n")


app = App()
