"""Fixtures for the web program: one shared by a module's tests, and ones with settings of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.redis import RedisServer
from tests.web.harness import OWN, SHARED, Serve, Web, serving


@pytest.fixture(scope="module", params=["gunicorn", "short way", "flask"])
def shared_web(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Web]:
    """With default settings, on each way in; ``web`` is how tests get it."""
    with serving(redis_server, SHARED, way=request.param) as web:
        yield web


@pytest.fixture
def web(shared_web: Web) -> Iterator[Web]:
    """The shared one, its worker as at the start; each test must let go of its calls."""
    shared_web.worker.reset()
    yield shared_web
    shared_web.nothing_waits()


@pytest.fixture
def session(web: Web) -> str:
    """A legacy session at the aggregate endpoint."""
    return web.initialize()


@pytest.fixture
def serve(redis_server: RedisServer) -> Iterator[Serve]:
    """Serves with settings of the test's own, one at a time."""
    with ExitStack() as stack:

        def begin(url: str | None = None, **sections: Mapping[str, Any]) -> Web:
            return stack.enter_context(serving(redis_server, OWN, url=url, **sections))

        yield begin
