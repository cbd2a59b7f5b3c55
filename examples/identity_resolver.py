"""A resolver of one's own: callers of a portal that signs who they are.

The portal sends ``x-portal-user: <tenant>/<client>/<signature>``, where the signature is the HMAC-SHA256 of
``<tenant>/<client>`` under a key that both have in the variable ``PORTAL_KEY``. In canalgate.yaml, with this file where
Python finds it (PYTHONPATH)::

    identity:
      resolver: ["examples.identity_resolver:PortalUsers", api_key]

`tests/common/contracts/test_examples.py` holds it to what every resolver must do.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from common.domain.errors import InvalidRequest, Unauthenticated
from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller
from common.ports import RequestFacts
from common.settings import IdentitySettings

HEADER = "x-portal-user"


class PortalUsers:
    """Implements ``common.ports.IdentityResolver``."""

    def __init__(self, settings: IdentitySettings) -> None:  # noqa: ARG002 - what it needs is in the environment
        self._key = os.environ["PORTAL_KEY"].encode()

    def resolve(self, request: RequestFacts) -> Caller | None:
        """Nobody's request is a portal's that has no such header: the next resolver is asked."""
        value = request.headers.get(HEADER)
        if value is None:
            return None
        parts = value.split("/")
        if len(parts) != 3 or not all(parts):
            raise InvalidRequest(f"{HEADER} must be <tenant>/<client>/<signature>", field=HEADER)
        tenant, client, signature = parts
        wanted = hmac.new(self._key, f"{tenant}/{client}".encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(signature.encode(), wanted.encode()):
            raise Unauthenticated("the signature is not the portal's")
        return Caller(tenant=TenantId(tenant), client=ClientId(client))
