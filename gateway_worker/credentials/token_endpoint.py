"""Asking the token endpoint of an authorization server (RFC 6749, sections 3.2 and 5) for an access token."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote_plus, urlencode

from common.domain.credentials import Credentials
from common.domain.egress import EgressRules
from common.settings.token_endpoint import TokenEndpointKeys
from gateway_worker.credentials.failure import ProviderFailed, ProviderRefused
from gateway_worker.credentials.given import GivenSecret
from gateway_worker.credentials.guarded_http import Answer, GuardedHttp, Question, may_pass, trust_of
from gateway_worker.credentials.signing import CLIENT, Signer

Form = list[tuple[str, str]]
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_KNOWN_ERRORS = frozenset(
    (
        *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "invalid_scope"),
        *("unsupported_grant_type", "invalid_target", "server_error", "temporarily_unavailable"),
    )
)
"""Codes of RFC 6749 and RFC 8707. Others are not repeated: nobody knows what a server puts there."""
_OWN_TROUBLE = frozenset(("", "server_error", "temporarily_unavailable"))
"""What says nothing of those who were asked for; no code that is known is not the server's word on them."""


class TokenEndpoint:
    """Of one entry of the settings. Keeps no token."""

    def __init__(self, entry: TokenEndpointKeys, where: str, rules: EgressRules, timeout: float) -> None:
        """``where`` is the entry's name, ``timeout`` is in seconds. Raises :class:`ConfigurationError`."""
        self._entry = entry
        self._http = GuardedHttp("the token endpoint", rules, timeout, trust_of(entry.ca_file, where))
        self._secret: GivenSecret | None = None
        self._signer: Signer | None = None
        if entry.auth == "private_key_jwt":
            key = GivenSecret(f"{where}.private_key", entry.private_key, entry.private_key_file)
            self._signer = Signer(key, entry.algorithm, entry.key_id)
        else:
            self._secret = GivenSecret(
                f"{where}.client_secret", entry.client_secret, entry.client_secret_file
            )

    async def token(
        self,
        grant: Callable[[], Form],
        leeway: float,
        kinds: Sequence[str],
        issued: frozenset[str] | None = None,
    ) -> Credentials:
        """An access token for this grant, as ``access_token`` and ``token_type``.

        ``grant`` is asked for each attempt, since what is signed in it may be good only once. ``leeway`` in seconds is
        taken off the token's life; ``kinds`` are the types of token that are understood, in lower case, ``issued`` the
        ``issued_token_type`` that there must be (RFC 8693). Raises :class:`ProviderFailed`: nothing is known then, and
        the tool's ``mode`` decides; :class:`ProviderRefused` where the server says no to the grant or to the gateway.
        """
        answer = await self._http.ask(lambda: self._question(grant()))
        found = answer.document
        if answer.status != 200:
            raise (ProviderRefused if _refuses(answer) else ProviderFailed)(_words(answer))
        if found is None:
            raise ProviderFailed("the token endpoint's answer is no JSON object")
        if issued is not None and found.get("issued_token_type") not in issued:
            raise ProviderFailed(
                "the token endpoint's answer has an issued_token_type that is no access token's"
            )
        return _credentials(found, leeway, kinds)

    def _question(self, grant: Form) -> Question:
        entry = self._entry
        known, headers = self._itself()
        form = [*grant, *known]
        form += [("scope", " ".join(entry.scopes))] if entry.scopes else []
        form += [("resource", uri) for uri in entry.resources]
        form += [("audience", name) for name in entry.audiences]
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        return Question("POST", entry.token_url, headers, urlencode(form).encode())

    def _itself(self) -> tuple[Form, dict[str, str]]:
        """How the gateway makes itself known: parameters, and headers."""
        entry = self._entry
        if self._signer is not None:
            claims = {
                "iss": entry.client_id,
                "sub": entry.client_id,
                "aud": entry.assertion_audience or entry.token_url,
            }
            signed = self._signer.sign(claims, kind=CLIENT)
            return [
                ("client_id", entry.client_id),
                ("client_assertion_type", ASSERTION_TYPE),
                ("client_assertion", signed),
            ], {}
        secret = "" if self._secret is None else self._secret.read()
        if entry.auth == "client_secret_post":
            return [("client_id", entry.client_id), ("client_secret", secret)], {}
        # Both are form-encoded first (RFC 6749, section 2.3.1): a colon or a percent sign may be in either.
        pair = f"{quote_plus(entry.client_id)}:{quote_plus(secret)}"
        return [], {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _code(answer: Answer) -> str:
    code = (answer.document or {}).get("error")
    return code if isinstance(code, str) and code in _KNOWN_ERRORS else ""


def _refuses(answer: Answer) -> bool:
    return 400 <= answer.status < 500 and not may_pass(answer) and _code(answer) not in _OWN_TROUBLE


def _words(answer: Answer) -> str:
    return f"the token endpoint answered with status {answer.status} {_code(answer)}".rstrip()


def _credentials(found: Mapping[str, Any], leeway: float, kinds: Sequence[str]) -> Credentials:
    token, kind = found.get("access_token"), found.get("token_type")
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
        raise ProviderFailed("the token endpoint's answer holds no access_token that a header can hold")
    if not isinstance(kind, str) or kind.lower() not in kinds:
        raise ProviderFailed(f"the token endpoint's answer has a token_type other than {', '.join(kinds)}")
    life = _life(found.get("expires_in"))
    if life is not None:
        life -= min(leeway, life / 2)
    return Credentials.of({"access_token": token, "token_type": kind}, expires_in=life, issued=True)


def _life(value: object) -> float | None:
    """Seconds; None where the server does not say. Some servers write the number as text."""
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ProviderFailed("the token endpoint's answer has an expires_in that is no number of seconds")
    return float(value)
