"""Which lists changed for whom: a digest of each list as it is seen at an endpoint."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping

import orjson

from common.domain.errors import GatewayError
from common.domain.ids import ToolId
from common.domain.invocation import Caller
from common.domain.policy_rules import Kind
from common.gateway import Gateway
from common.mcp.listings import LISTINGS
from common.registry.records import Entry
from gateway_web.ingress.lists import visible_entries, visible_items

Digests = Mapping[str, str]
"""The kind of a list (``tools``, ``resources``, ``prompts``) -> its digest. Templates are resources here."""

KINDS = tuple(dict.fromkeys(listing.capability for listing in LISTINGS))


def list_changed(kind: str) -> str:
    """The notification's method."""
    return f"notifications/{kind}/list_changed"


class ListDigests:
    """Worked out once for each version of registry and policy, endpoint and kind of caller. Safe from any thread."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._lock = threading.Lock()
        self._version: tuple[int, object] = (-1, None)
        self._known: dict[tuple[ToolId | None, Kind], Digests] = {}

    def of(self, caller: Caller, tool: ToolId | None) -> Digests:
        """The lists at an endpoint as a caller sees them; empty while they cannot be told (the tool is gone, or
        switched off).
        """
        policy = self._gateway.policy
        version, place = (self._gateway.catalogue.version, policy), (tool, policy.kind_of(caller))
        with self._lock:
            if version != self._version:
                self._version, self._known = version, {}
            found = self._known.get(place)
        if found is None:
            found = self._digests(caller, tool)
            with self._lock:
                if version == self._version:
                    self._known[place] = found
        return found

    def _digests(self, caller: Caller, tool: ToolId | None) -> Digests:
        hashes = {kind: hashlib.sha256() for kind in KINDS}
        for listing in LISTINGS:
            try:
                items = visible_items(self._gateway, caller, tool, listing)
            except GatewayError:
                items = []
            hashes[listing.capability].update(orjson.dumps([listing.member, [dict(item) for item in items]]))
        for entry in self._entries(caller, tool):
            for kind, count in entry.known.announced.items() if entry.known else ():
                hashes[kind].update(orjson.dumps([entry.id, count]))
        return {kind: digest.hexdigest()[:16] for kind, digest in hashes.items()}

    def _entries(self, caller: Caller, tool: ToolId | None) -> list[Entry]:
        try:
            return visible_entries(self._gateway, caller, tool)
        except GatewayError:
            return []


def changed(before: Digests, now: Digests) -> list[str]:
    """The kinds whose lists are others now."""
    return [kind for kind in KINDS if before.get(kind) != now.get(kind)]
