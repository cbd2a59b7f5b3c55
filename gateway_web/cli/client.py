"""A small MCP client for the command line: modern requests, one at a time."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Mapping
from typing import Any

import httpx
import orjson

from common import __version__
from common.domain.errors import GatewayError, InvocationTimeout, StoreUnavailable
from common.mcp.headers import encode_header_value
from common.mcp.revisions import LATEST_MODERN
from common.mcp.translate import modern_params


class RefusedByGateway(GatewayError):
    """The gateway answered with a JSON-RPC error."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        data = error.get("data")
        named = data if isinstance(data, dict) else {}
        super().__init__(str(error.get("message")), **{"code": f"JSON-RPC {error.get('code')}", **named})


class GatewayClient:
    """Speaks to one endpoint."""

    def __init__(
        self, url: str, headers: Mapping[str, str], *, timeout: float, tls: ssl.SSLContext | bool = True
    ) -> None:
        """``timeout`` is in seconds; ``tls`` says whom to trust."""
        self._url = url
        self._headers = dict(headers)
        self._timeout = timeout
        self._tls = tls
        self._ids = itertools.count(1)

    def request(self, method: str, params: Mapping[str, Any], *, name: str | None = None) -> dict[str, Any]:
        """The result. Raises :class:`RefusedByGateway` or, if nobody answers, :class:`StoreUnavailable`."""
        sent = modern_params(
            params,
            version=LATEST_MODERN,
            client_info={"name": "canalgate-cli", "version": __version__},
            client_capabilities={},
        )
        headers = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": LATEST_MODERN,
            "mcp-method": method,
            **({} if name is None else {"mcp-name": encode_header_value(name)}),
            **self._headers,
        }
        body = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": sent}
        try:
            answer = httpx.post(
                self._url,
                content=orjson.dumps(body),
                headers=headers,
                timeout=self._timeout,
                trust_env=False,
                verify=self._tls,
            )
        except httpx.ReadTimeout as error:
            raise InvocationTimeout(
                f"nothing came from {self._url} for {self._timeout:g} s (--timeout); whether the tool acted is unknown"
            ) from error
        except httpx.HTTPError as error:
            raise StoreUnavailable(
                f"no gateway answers at {self._url}; start one with `canalgate up`, or name it with --url"
            ) from error
        return _result(answer)


def _result(answer: httpx.Response) -> dict[str, Any]:
    raw = answer.content
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        frames = [line.removeprefix(b"data: ") for line in raw.splitlines() if line.startswith(b"data: ")]
        raw = frames[-1] if frames else b""
    try:
        message = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise RefusedByGateway({"message": f"HTTP status {answer.status_code}, and no JSON"}) from None
    if "error" in message:
        raise RefusedByGateway(
            message["error"] if isinstance(message["error"], dict) else {"message": message["error"]}
        )
    result: dict[str, Any] = message["result"]
    return result
