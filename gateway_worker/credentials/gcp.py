"""Credentials in Google Cloud Secret Manager.

The request is ours (REST), so that it goes through the guard of outbound connections; who the worker is there,
google-auth finds out in the usual ways.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from typing import Any

from common.domain.credentials import CredentialRequest, Credentials
from common.domain.errors import ConfigurationError
from common.settings import Settings
from gateway_worker.credentials.failure import ProviderFailed
from gateway_worker.credentials.guarded_http import Answer, GuardedHttp, Question, trust_of
from gateway_worker.credentials.secret_text import credentials_in

ENDPOINT = "https://secretmanager.googleapis.com"
SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_KNOWN_ERRORS = frozenset(
    (
        *("INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNAUTHENTICATED", "PERMISSION_DENIED"),
        *("RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED"),
    )
)
"""Of google.rpc.Code. Others are not repeated: nobody knows what stands there."""
_VERSION = re.compile(r".*/versions/([0-9]{1,18})")


class GcpProvider:
    """Reads the version ``gcp.version`` of the secret ``gcp.<scope>_name``.

    That there is no such secret, or no such version, is no failure. Whatever else the service says is one.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises :class:`ConfigurationError` without a project, without google-auth, and for a file that is unfit."""
        section = settings.gcp
        if section.project is None:
            raise ConfigurationError("the credentials provider gcp needs gcp.project", field="gcp.project")
        try:
            import google.auth
            import google.auth.exceptions
            import google.auth.transport.requests
            from google.oauth2 import service_account
        except ImportError as error:
            raise ConfigurationError(
                "the credentials provider gcp needs the package google-cloud-secret-manager: "
                "install canalgate[gcp]",
                field="credentials.providers",
            ) from error
        self._section = section
        self._google: Any = google.auth
        self._account: Any = service_account.Credentials
        self._identity: Any = None
        self._http = GuardedHttp(
            "Secret Manager",
            settings.egress.rules,
            settings.credentials.timeout,
            trust_of(section.ca_file, "gcp"),
        )
        self._finding = asyncio.Lock()
        if section.credentials_file is not None:
            self._identity = self._of_file(section.credentials_file)

    async def resolve(self, request: CredentialRequest) -> Credentials | None:
        """See :class:`~common.ports.CredentialsProvider`."""
        answer = await self._asked(request, await self._token())
        if answer.status == 401 and not self._section.anonymous:
            # It was revoked, or the clocks differ.
            answer = await self._asked(request, await self._token(new=True))
        if answer.status == 200:
            return _credentials(answer)
        if answer.status == 404:
            return None
        raise ProviderFailed(f"{self._http.what} answered with status {answer.status}{_word(answer)}")

    async def _asked(self, request: CredentialRequest, token: str) -> Answer:
        section = self._section
        name = f"projects/{section.project}/secrets/{section.name_for(request)}/versions/{section.version}"
        url = f"{(section.endpoint_url or ENDPOINT).rstrip('/')}/v1/{name}:access"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return await self._http.ask(lambda: Question("GET", url, headers))

    async def _token(self, *, new: bool = False) -> str:
        """An access token; empty for nobody. One at a time: who comes meanwhile uses what that one got."""
        if self._section.anonymous:
            return ""
        async with self._finding:
            return await asyncio.to_thread(self._fresh, new=new)

    def _fresh(self, *, new: bool) -> str:
        """Blocks."""
        google = self._google
        try:
            if self._identity is None:
                self._identity, _ = google.default(scopes=SCOPES)
            if new or not self._identity.valid:
                self._identity.refresh(google.transport.requests.Request())
        except google.exceptions.GoogleAuthError as error:
            raise ProviderFailed(
                f"the worker's identity at Google Cloud cannot be had: {type(error).__name__}"
            ) from None
        return str(self._identity.token)

    def _of_file(self, name: str) -> Any:
        try:
            found = self._account.from_service_account_file(name, scopes=SCOPES)
        except (self._google.exceptions.GoogleAuthError, OSError, ValueError) as error:
            raise ConfigurationError(
                f"gcp.credentials_file holds no key that can be used: {type(error).__name__}",
                field="gcp.credentials_file",
            ) from None
        return found


def _word(answer: Answer) -> str:
    found = (answer.document or {}).get("error")
    code = found.get("status") if isinstance(found, dict) else None
    return f" {code}" if isinstance(code, str) and code in _KNOWN_ERRORS else ""


def _credentials(answer: Answer) -> Credentials | None:
    found = answer.document or {}
    payload = found.get("payload")
    data = payload.get("data") if isinstance(payload, dict) else None
    try:
        text = base64.b64decode(data, validate=True).decode() if isinstance(data, str) else None
    except (binascii.Error, ValueError):
        text = None
    if text is None:
        raise ProviderFailed("Secret Manager's answer holds no text in payload.data")
    version = _VERSION.fullmatch(str(found.get("name")))
    return credentials_in(text, f"version {version[1]}" if version else "")
