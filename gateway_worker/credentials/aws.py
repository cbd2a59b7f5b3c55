"""Credentials in AWS Secrets Manager.

The request is ours (AWS JSON 1.1, signed by botocore), so that it goes through the guard of outbound connections; who
the worker is there, botocore finds out in the usual ways.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson

from common.domain.credentials import CredentialRequest, Credentials
from common.domain.errors import ConfigurationError
from common.settings import Settings
from gateway_worker.credentials.failure import ProviderFailed
from gateway_worker.credentials.guarded_http import Answer, GuardedHttp, Question, may_pass, trust_of
from gateway_worker.credentials.secret_text import credentials_in

SERVICE = "secretsmanager"
_THROTTLED = frozenset(
    ("ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown")
)
_KNOWN_ERRORS = _THROTTLED | {
    *("AccessDeniedException", "DecryptionFailure", "ExpiredTokenException", "IncompleteSignature"),
    *("InternalServiceError", "InvalidParameterException", "InvalidRequestException"),
    *("InvalidSignatureException", "MissingAuthenticationToken", "UnrecognizedClientException"),
    *("ValidationException", "ServiceUnavailable"),
}
"""Others are not repeated: nobody knows what stands there."""
_VERSION = re.compile(r"[A-Za-z0-9-]{1,64}")


class AwsProvider:
    """Reads the secret ``aws.<scope>_name`` in the version of ``aws.version_stage``.

    That there is no such secret, or no such version, is no failure. Whatever else the service says is one.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises :class:`ConfigurationError` without a region, and without the packages that sign."""
        section = settings.aws
        if section.region is None:
            raise ConfigurationError("the credentials provider aws needs aws.region", field="aws.region")
        try:
            import boto3
            from botocore.auth import SigV4Auth
            from botocore.awsrequest import AWSRequest
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise ConfigurationError(
                "the credentials provider aws needs the package boto3: install canalgate[aws]",
                field="credentials.providers",
            ) from error
        self._section = section
        self._region = section.region
        self._url = section.endpoint_url or f"https://{SERVICE}.{section.region}.amazonaws.com/"
        self._http = GuardedHttp(
            "AWS Secrets Manager",
            settings.egress.rules,
            settings.credentials.timeout,
            trust_of(section.ca_file, "aws"),
        )
        self._signing: Any = SigV4Auth
        self._request: Any = AWSRequest
        self._faults = (BotoCoreError, ClientError)
        given = (section.access_key_id, section.secret_access_key, section.session_token)
        key, secret, token = (None if value is None else value.get_secret_value() for value in given)
        self._session: Any = boto3.Session(
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_session_token=token,
            region_name=section.region,
        )
        self._finding = asyncio.Lock()

    async def resolve(self, request: CredentialRequest) -> Credentials | None:
        """See :class:`~common.ports.CredentialsProvider`."""
        async with self._finding:  # it may ask a service: for all who wait once
            identity = await asyncio.to_thread(self._identity)
        body = orjson.dumps(
            {"SecretId": self._section.name_for(request), "VersionStage": self._section.version_stage}
        )
        answer = await self._http.ask(lambda: self._signed(identity, body), _may_pass)
        if answer.status == 200:
            return _credentials(answer)
        code = _code(answer)
        if code == "ResourceNotFoundException":
            return None
        known = f" {code}" if code in _KNOWN_ERRORS else ""
        raise ProviderFailed(f"{self._http.what} answered with status {answer.status}{known}")

    def _identity(self) -> Any:
        """The keys to sign with, new ones if the old are over. Blocks."""
        try:
            found = self._session.get_credentials()
            if found is not None:
                return found.get_frozen_credentials()
        except self._faults as error:
            raise ProviderFailed(
                f"the worker's identity at AWS cannot be had: {type(error).__name__}"
            ) from None
        raise ProviderFailed(
            "the worker has no identity at AWS: give it a role, or set aws.access_key_id and aws.secret_access_key"
        )

    def _signed(self, identity: Any, body: bytes) -> Question:
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"{SERVICE}.GetSecretValue",
        }
        request = self._request(method="POST", url=self._url, data=body, headers=headers)
        self._signing(identity, SERVICE, self._region).add_auth(request)
        return Question("POST", self._url, dict(request.headers.items()), body)


def _code(answer: Answer) -> str:
    """The service's word for what is wrong, without the name space before it."""
    kind = (answer.document or {}).get("__type")
    return kind.rpartition("#")[2] if isinstance(kind, str) else ""


def _may_pass(answer: Answer) -> bool:
    return may_pass(answer) or (answer.status == 400 and _code(answer) in _THROTTLED)


def _credentials(answer: Answer) -> Credentials | None:
    found = answer.document or {}
    text, version = found.get("SecretString"), found.get("VersionId")
    if not isinstance(text, str):
        raise ProviderFailed(
            "AWS Secrets Manager's answer holds no SecretString: a binary secret is none of ours"
        )
    known = isinstance(version, str) and _VERSION.fullmatch(version)
    return credentials_in(text, f"{version}" if known else "")
