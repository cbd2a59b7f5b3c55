"""Who runs the gateway, and what he may do: the tokens of the admin API, which Flower asks for as well."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode
from dataclasses import dataclass
from enum import StrEnum

from common.domain.errors import Forbidden, Unauthenticated
from common.settings.admin import AdminSettings

BEARER, BASIC = "bearer", "basic"


class Role(StrEnum):
    """What an operator may do; each may do what those before it may."""

    VIEWER = "viewer"
    """See everything but secrets."""
    OPERATOR = "operator"
    """Switch, drain and refresh tools, their circuits, close sessions, cancel calls."""
    ADMIN = "admin"
    """Change what is registered and who may call."""

    def may_act_as(self, wanted: Role) -> bool:
        """Whether this role includes the other."""
        order = list(Role)
        return order.index(self) >= order.index(wanted)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a request. ``name`` is what the audit journal calls him: ``admin:<name of the token>``."""

    name: str
    role: Role

    def require(self, role: Role) -> None:
        """Raise :class:`Forbidden` for one who may not act as this."""
        if not self.role.may_act_as(role):
            raise Forbidden(f"this needs the role {role.value}; the token has the role {self.role.value}")


class Tokens:
    """The tokens of the settings. Fails closed: whatever is not one of them is refused."""

    def __init__(self, settings: AdminSettings) -> None:
        self.take_over(settings)

    def take_over(self, settings: AdminSettings) -> None:
        """Let these tokens be the ones that are known."""
        self._actors = {
            _digest(entry.token.get_secret_value()): Actor(f"admin:{entry.name}", Role(entry.role))
            for entry in settings.tokens
        }

    def actor(self, authorization: str | None) -> Actor:
        """Whose token the header ``Authorization`` holds. Raises :class:`Unauthenticated`."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != BEARER or not token.strip():
            raise Unauthenticated("send a token of the admin API as 'Authorization: Bearer <token>'")
        return self._known(token)

    def actor_in_browser(self, authorization: str | None) -> Actor:
        """As :meth:`actor`; the token may also be the password of HTTP's basic authentication, the user any name.

        Only for pages that change nothing: a browser sends it along with whatever a foreign page makes it ask for.
        """
        scheme, _, encoded = (authorization or "").partition(" ")
        if scheme.lower() != BASIC:
            return self.actor(authorization)
        try:
            text = b64decode(encoded.strip(), validate=True).decode()
        except ValueError:
            text = ""
        return self._known(text.partition(":")[2])

    def _known(self, token: str) -> Actor:
        found = self._actors.get(_digest(token.strip()))
        if found is None:
            raise Unauthenticated("this token is not known")
        return found


def _digest(token: str) -> bytes:
    """Tokens are compared by digest, so that the time of a comparison tells nothing about one."""
    return hmac.digest(b"canalgate-admin", token.encode("utf-8", "surrogatepass"), hashlib.sha256)
