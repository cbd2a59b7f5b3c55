"""A backend that has been spoken to: link plus the era and revision that were negotiated."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from common import __version__
from common.credentials.injection import NOTHING, Injected
from common.domain.custom import CustomTransport
from common.domain.egress import STRICT, EgressRules
from common.domain.errors import TransportFailure
from common.domain.tool import HttpTransport, StdioTransport, Tool
from common.mcp.inbound import (
    META_CLIENT_CAPABILITIES,
    META_CLIENT_INFO,
    META_PROTOCOL_VERSION,
    NAME_BEARING_METHODS,
    encode_header_value,
)
from common.mcp.jsonrpc import UNSUPPORTED_VERSION
from common.mcp.revisions import (
    LATEST_LEGACY,
    LATEST_MODERN,
    LEGACY_VERSIONS,
    MODERN_VERSIONS,
    Era,
)
from common.mcp.translate import META_SERVER_INFO, legacy_params, modern_params
from common.processes.guard import ProcessGuard
from gateway_worker.egress.custom import CustomLink
from gateway_worker.egress.factories import Factories
from gateway_worker.egress.http import HttpLink
from gateway_worker.egress.link import (
    NO_HEADERS,
    Gate,
    Link,
    LinkLost,
    OnNotification,
    OnRequest,
    OnSettled,
    RpcError,
    StatusRefused,
    always_open,
    noise_words,
)
from gateway_worker.egress.process import Child
from gateway_worker.egress.stdio import StdioLink

CLIENT_INFO = {"name": "canalgate", "version": __version__}
NO_CAPABILITIES: Mapping[str, Any] = {}
ERA_REFUSALS = frozenset({400, 404, 405})
"""What an HTTP backend may answer to the opening of an era it does not speak."""
ERA_PATIENCE = 5.0
"""Seconds that a backend has to show whether it speaks the modern era, while the other one is still to be tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Negotiated:
    """What the backend said of itself."""

    era: Era
    version: str
    server_info: Mapping[str, Any]
    capabilities: Mapping[str, Any]
    instructions: str | None


class Backend:
    """An open, negotiated backend."""

    def __init__(self, link: Link, negotiated: Negotiated) -> None:
        self.link = link
        self.negotiated = negotiated

    @property
    def routed_by_headers(self) -> bool:
        """Whether requests repeat parts of their params in HTTP headers."""
        return self.negotiated.era is Era.MODERN and isinstance(self.link, HttpLink)

    async def call(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        on_notification: OnNotification | None = None,
        on_request: OnRequest | None = None,
        on_settled: OnSettled | None = None,
        principal: str = "",
    ) -> dict[str, Any]:
        """Forward a caller's request and return the backend's result as it is.

        What the caller says of itself stands in ``_meta`` as the modern era has it; there a modern backend finds it.
        """
        sent, routing = self._prepared(method, params)
        return await self.link.request(
            method,
            sent,
            headers={**headers, **routing},
            on_notification=on_notification,
            on_request=on_request,
            on_settled=on_settled,
            principal=principal,
        )

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        on_notification: OnNotification | None = None,
        on_settled: OnSettled | None = None,
    ) -> dict[str, Any]:
        """Send a request of this gateway's own."""
        return await self.call(method, params, on_notification=on_notification, on_settled=on_settled)

    def _prepared(self, method: str, params: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, str]]:
        """The params in the backend's era, and the headers that go with them."""
        if self.negotiated.era is Era.LEGACY:
            return legacy_params(params), NO_HEADERS
        version = self.negotiated.version
        return relayed_params(params, version), modern_headers(method, params, version)


def relayed_params(params: Mapping[str, Any], version: str) -> dict[str, Any]:
    """The params for a modern backend: what the caller says of itself stays as it is; this gateway says little."""
    meta = params.get("_meta")
    described = {
        META_CLIENT_INFO: CLIENT_INFO,
        META_CLIENT_CAPABILITIES: {},
        **(meta if isinstance(meta, Mapping) else {}),
        META_PROTOCOL_VERSION: version,
    }
    return {**params, "_meta": described}


def modern_headers(method: str, params: Mapping[str, Any], version: str) -> dict[str, str]:
    """The headers by which a modern request is routed (2026-07-28, "Transports")."""
    headers = {"mcp-protocol-version": version, "mcp-method": method}
    named_by = NAME_BEARING_METHODS.get(method)
    if named_by is not None and isinstance(params.get(named_by), str):
        headers["mcp-name"] = encode_header_value(params[named_by])
    return headers


class MakeLink(Protocol):
    """:func:`make_link` with what is the same for all links of a worker."""

    def __call__(self, tool: Tool, *, gate: Gate = ..., given: Injected = ...) -> Link:
        """The link for a tool's transport."""


def make_link(
    tool: Tool,
    guard: ProcessGuard,
    *,
    max_bytes: int,
    gate: Gate = always_open,
    rules: EgressRules = STRICT,
    given: Injected = NOTHING,
    factories: Factories | None = None,
) -> Link:
    """The link for a tool's transport; nothing is started yet. ``gate`` is asked before each write to it.

    ``rules`` say where connections may lead. ``given`` are credentials, which win over what the definition says under
    the same names. ``factories`` are this worker's; absent: the link has one for itself.
    """
    match tool.transport:
        case StdioTransport() as transport:
            transport = replace(transport, env={**transport.env, **given.env})
            child = Child(transport, guard, line_limit=max_bytes, limits=tool.limits, secrets=given.in_meta)
            return StdioLink(child, gate=gate, meta=given.meta)
        case HttpTransport() as transport:
            return HttpLink(
                replace(transport, headers=_over(transport.headers, given.headers)),
                connect_timeout=tool.startup_timeout,
                max_bytes=max_bytes,
                gate=gate,
                rules=rules.for_discovered if transport.discovered else rules,
                meta=given.meta,
            )
        case CustomTransport() as transport:
            return CustomLink(
                tool.id, transport, factories or Factories(), max_bytes=max_bytes, gate=gate, given=given
            )


def _over(declared: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """The headers together; the same name may be spelled in two ways."""
    names = {name.lower() for name in given}
    return {**{name: value for name, value in declared.items() if name.lower() not in names}, **given}


async def connect(
    link: Link, eras: Sequence[Era], client_capabilities: Mapping[str, Any] = NO_CAPABILITIES
) -> Backend:
    """Open the link and negotiate in the first of ``eras`` that the backend speaks.

    A legacy backend is told ``client_capabilities`` once for all; a modern one hears them with each request.

    Raises :class:`TransportFailure`. The link is closed on failure.
    """
    try:
        await link.open()
        refused: list[str] = []
        for number, era in enumerate(eras, 1):
            last = number == len(eras)
            try:
                async with asyncio.timeout(None if last or era is Era.LEGACY else ERA_PATIENCE):
                    negotiated = await (
                        _initialize(link, client_capabilities) if era is Era.LEGACY else discover(link)
                    )
            except RpcError as error:
                refused.append(f"{era.value}: {error.error.get('message')}")
            except StatusRefused as error:
                # "HTTP: on 400/404/405 without a modern error body" the other era is tried (2026-07-28, Versioning).
                # A legacy backend may also break at what it does not know, and answer its own era all the same.
                if error.status not in ERA_REFUSALS and (last or era is Era.LEGACY):
                    raise
                refused.append(f"{era.value}: {error.message}")
            except TimeoutError:
                refused.append(f"{era.value}: no answer within {ERA_PATIENCE:g} s")
            else:
                return Backend(link, negotiated)
        raise TransportFailure("the tool speaks no revision known here (" + "; ".join(refused) + ")")
    except BaseException:
        await link.close()
        raise


async def start(
    tool: Tool, link: Link, eras: Sequence[Era], client_capabilities: Mapping[str, Any] = NO_CAPABILITIES
) -> Backend:
    """:func:`connect` within the tool's ``startup_timeout``; beyond it, :class:`TransportFailure` that says so."""
    try:
        async with asyncio.timeout(tool.startup_timeout):
            return await connect(link, eras, client_capabilities)
    except TimeoutError as error:
        raise LinkLost(
            f"the tool did not become usable within startup_timeout ({tool.startup_timeout:g} s)"
            + noise_words(link.noise),
            detail=link.stderr_words() if isinstance(link, StdioLink) else "",
        ) from error


async def _initialize(link: Link, client_capabilities: Mapping[str, Any]) -> Negotiated:
    params = {
        "protocolVersion": LATEST_LEGACY,
        "capabilities": dict(client_capabilities),
        "clientInfo": CLIENT_INFO,
    }
    result = await link.request("initialize", params)
    version = result.get("protocolVersion")
    if version in MODERN_VERSIONS:
        # It has no such handshake, or mixes it up with its other era: it is to be spoken to in that one.
        message = f"initialize was answered with {version}"
        raise RpcError({"code": UNSUPPORTED_VERSION, "message": message})
    if version not in LEGACY_VERSIONS:
        shown = version if isinstance(version, str) else type(version).__name__
        raise TransportFailure(f"the tool answered initialize with protocol version {shown[:40]!r}")
    if isinstance(link, HttpLink):
        link.era = Era.LEGACY
        link.use_session(version)
    await link.notify("notifications/initialized", {})
    if isinstance(link, HttpLink) and client_capabilities:
        await link.heard()
    return _negotiated(Era.LEGACY, version, result)


async def discover(link: Link) -> Negotiated:
    """Ask ``server/discover``. Raises :class:`RpcError` if the backend does not know it."""
    try:
        result = await _discovered(link, LATEST_MODERN)
    except RpcError as error:
        # Whoever names revisions of this era speaks it: "select a mutually supported version and retry" (2026-07-28,
        # "Versioning").
        if (version := _named_version(error)) is None:
            raise
        result = await _discovered(link, version)
    offered = result.get("supportedVersions")
    common_versions = [v for v in MODERN_VERSIONS if isinstance(offered, list) and v in offered]
    if not common_versions:
        raise RpcError({"code": UNSUPPORTED_VERSION, "message": "no modern revision in common"})
    if isinstance(link, HttpLink):
        link.era = Era.MODERN
    return _negotiated(Era.MODERN, common_versions[-1], result)


async def _discovered(link: Link, version: str) -> dict[str, Any]:
    params = modern_params({}, version=version, client_info=CLIENT_INFO, client_capabilities={})
    return await link.request(
        "server/discover", params, headers=modern_headers("server/discover", params, version)
    )


def _named_version(error: RpcError) -> str | None:
    """The newest revision known here among those that a refusal of the version names; None for any other refusal."""
    data = error.error.get("data")
    supported = data.get("supported") if isinstance(data, dict) else None
    if error.error.get("code") != UNSUPPORTED_VERSION or not isinstance(supported, list):
        return None
    return next((version for version in reversed(MODERN_VERSIONS) if version in supported), None)


def _negotiated(era: Era, version: str, result: Mapping[str, Any]) -> Negotiated:
    meta = result.get("_meta")
    info = result.get("serverInfo") or (meta.get(META_SERVER_INFO) if isinstance(meta, dict) else None)
    capabilities = result.get("capabilities")
    instructions = result.get("instructions")
    return Negotiated(
        era=era,
        version=version,
        server_info=info if isinstance(info, dict) else {},
        capabilities=capabilities if isinstance(capabilities, dict) else {},
        instructions=instructions if isinstance(instructions, str) else None,
    )
