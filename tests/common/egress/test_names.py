"""Hosts that can be no name: not reached, like any that has no address."""

from __future__ import annotations

import httpx
import pytest
import requests

from common.domain.egress import STRICT
from common.egress.client import guarded_async_client, guarded_client
from common.egress.session import guarded_session
from tests.support.aio import on_loop

URLS = [f"{scheme}://{host}/" for scheme in ("http", "https") for host in ("a..b", f"{'x' * 64}.example")]


@pytest.mark.parametrize("url", [*URLS, "http://.example.com/"])
def test_httpx_cannot_connect_to_what_can_be_no_name(url: str) -> None:
    with guarded_client(STRICT, local=False) as client, pytest.raises(httpx.ConnectError):
        client.get(url)


@pytest.mark.parametrize("url", [*URLS, "http://.example.com/"])
def test_async_httpx_cannot_connect_to_what_can_be_no_name(url: str) -> None:
    @on_loop
    async def scenario() -> None:
        async with guarded_async_client(STRICT, local=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(url)

    scenario()


@pytest.mark.parametrize("url", URLS)
def test_requests_cannot_connect_to_what_can_be_no_name(url: str) -> None:
    with guarded_session(STRICT, local=False) as session, pytest.raises(requests.ConnectionError):
        session.get(url, timeout=2)
