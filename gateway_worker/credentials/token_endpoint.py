"""Asking the token endpoint of an authorization server (RFC 6749, sections 3.2 and 5) for an access token."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote_plus, urlencode

import httpx

from common.domain.credentials import Credentials
from common.domain.egress import EgressRules
from common.domain.errors import ConfigurationError
from common.domain.tls import TlsRules
from common.egress.client import guarded_async_client
from common.mcp.jsonrpc import JsonRpcError, strict_json
from common.settings.token_endpoint import TokenEndpointKeys
from common.tls import TlsFileError, client_context
from gateway_worker.credentials.failure import ProviderFailed
from gateway_worker.credentials.given import GivenSecret
from gateway_worker.credentials.signing import Signer

Form = list[tuple[str, str]]
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MOST_BYTES = 128 << 10
"""Largest answer that is read."""
PAUSES = (0.2, 0.6)
"""Seconds before each further attempt at a server that is away or has too much to do."""
LONGEST_PAUSE = 5.0
_PASSING = frozenset((429, 500, 502, 503, 504))
_KNOWN_ERRORS = frozenset(
    (
        *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "invalid_scope"),
        *("unsupported_grant_type", "invalid_target", "server_error", "temporarily_unavailable"),
    )
)
"""Codes of RFC 6749 and RFC 8707. Others are not repeated: nobody knows what a server puts there."""


class _Answer(NamedTuple):
    status: int
    body: bytes
    retry_after: str


class TokenEndpoint:
    """Of one entry of the settings. Keeps no token, and no connection: it is asked once in a token's life."""

    def __init__(self, entry: TokenEndpointKeys, where: str, rules: EgressRules, timeout: float) -> None:
        """``where`` is the entry's name, ``timeout`` is in seconds. Raises :class:`ConfigurationError`."""
        self._entry = entry
        self._rules = rules
        self._timeout = timeout
        self._tls = _trust(entry.ca_file, where)
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
        grant: Sequence[tuple[str, str]],
        leeway: float,
        kinds: Sequence[str],
        issued: frozenset[str] | None = None,
    ) -> Credentials:
        """An access token for this grant, as ``access_token`` and ``token_type``.

        ``leeway`` in seconds is taken off its life; ``kinds`` are the types of token that are understood, in lower
        case, ``issued`` the ``issued_token_type`` that there must be (RFC 8693). Raises :class:`ProviderFailed`:
        nothing is known then, and the tool's ``mode`` decides.
        """
        entry = self._entry
        form = [*grant]
        form += [("scope", " ".join(entry.scopes))] if entry.scopes else []
        form += [("resource", uri) for uri in entry.resources]
        form += [("audience", name) for name in entry.audiences]
        found = _document(await self._answer(form))
        if issued is not None and found.get("issued_token_type") not in issued:
            raise ProviderFailed(
                "the token endpoint's answer has an issued_token_type that is no access token's"
            )
        return _credentials(found, leeway, kinds)

    async def _answer(self, form: Form) -> bytes:
        """The body of a good answer. What may pass is tried again; ``credentials.timeout`` bounds it all."""
        failure = ""
        for pause in (*PAUSES, None):
            try:
                answer = await self._post(form)
            except httpx.HTTPError as error:
                failure, wait = f"the token endpoint cannot be asked: {type(error).__name__}", 0.0
            else:
                if answer.status == 200:
                    return answer.body
                failure, wait = _words(answer), _seconds(answer.retry_after)
                if answer.status not in _PASSING:
                    break
            if pause is None or wait > LONGEST_PAUSE:
                break
            await asyncio.sleep(max(pause, wait))
        raise ProviderFailed(failure)

    async def _post(self, form: Form) -> _Answer:
        known, headers = self._itself()
        body = urlencode([*form, *known]).encode()
        headers |= {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        async with (
            guarded_async_client(self._rules, local=True, tls=self._tls, timeout=self._timeout) as client,
            client.stream("POST", self._entry.token_url, content=body, headers=headers) as answer,
        ):
            found = bytearray()
            async for piece in answer.aiter_raw():
                found += piece
                if len(found) > MOST_BYTES:
                    raise ProviderFailed(f"the token endpoint's answer has more than {MOST_BYTES} bytes")
            return _Answer(answer.status_code, bytes(found), answer.headers.get("retry-after", ""))

    def _itself(self) -> tuple[Form, dict[str, str]]:
        """How the gateway makes itself known: parameters, and headers."""
        entry = self._entry
        if self._signer is not None:
            claims = {
                "iss": entry.client_id,
                "sub": entry.client_id,
                "aud": entry.assertion_audience or entry.token_url,
            }
            signed = self._signer.sign(claims)
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


def _trust(ca_file: str | None, where: str) -> ssl.SSLContext:
    try:
        return client_context(TlsRules(ca_file=ca_file))
    except TlsFileError as error:
        raise ConfigurationError(f"{where}.ca_file: {error}", field=f"{where}.ca_file") from None


def _words(answer: _Answer) -> str:
    try:
        found: Any = strict_json(answer.body)
    except JsonRpcError:
        found = None
    code = found.get("error") if isinstance(found, dict) else None
    known = f" {code}" if isinstance(code, str) and code in _KNOWN_ERRORS else ""
    return f"the token endpoint answered with status {answer.status}{known}"


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _document(body: bytes) -> dict[str, Any]:
    try:
        found: Any = strict_json(body)
    except JsonRpcError:
        raise ProviderFailed("the token endpoint's answer is no JSON") from None
    if not isinstance(found, dict):
        raise ProviderFailed("the token endpoint's answer is no JSON object")
    return found


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
