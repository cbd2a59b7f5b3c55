"""Credentials in HashiCorp Vault or OpenBao: a key-value engine of version 2."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from common.domain.credentials import CredentialRequest, Credentials, safe_part
from common.domain.errors import ConfigurationError
from common.settings import Settings
from common.settings.vault import VaultSettings

THREADS = 4
"""Requests to the server at a time; one that hangs, or drips, holds a thread for ``credentials.timeout``."""
MOST_BYTES = 1 << 20
"""Largest answer that is read; a secret of a key-value engine has less."""
RENEW_AT = 2 / 3
"""Part of a token's life after which it is renewed."""
LEAST_LIFE = 1.0
"""Seconds that a token must still live to be used."""


T = TypeVar("T")


class VaultProvider:
    """Reads ``vault.<scope>_path`` below ``vault.mount``, ids as :func:`safe_part` spells them.

    The worker logs in at its first request, renews its token when most of its life is over, and logs in anew if the
    token cannot be renewed, or is refused. What the server refuses or does not answer is a failure; that there is no
    secret at a path, or that it was deleted, is not.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises :class:`ConfigurationError` without an address, and without the package that speaks to it.

        ``egress`` is held against where the address leads, as for the tools of the settings file.
        """
        vault = settings.vault
        if vault.url is None:
            raise ConfigurationError("the credentials provider vault needs vault.url", field="vault.url")
        try:
            import hvac
        except ImportError as error:
            raise ConfigurationError(
                "the credentials provider vault needs the package hvac: install canalgate[vault]",
                field="credentials.providers",
            ) from error
        from common.egress.session import guarded_session

        session = guarded_session(
            settings.egress.rules, local=True, within=settings.credentials.timeout, most=MOST_BYTES
        )
        session.verify = True if vault.ca_file is None else vault.ca_file
        self._vault = vault
        self._hvac: Any = hvac
        self._client: Any = hvac.Client(
            url=vault.url,
            session=session,
            namespace=vault.namespace,
            timeout=settings.credentials.timeout,
            allow_redirects=False,
            strict_http=True,
        )
        # The environment (VAULT_TOKEN, ~/.vault-token, ~/.netrc) is not asked: the settings say who this is.
        self._client.token = None
        self._login = asyncio.Lock()
        self._token = _Token()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="vault")

    async def resolve(self, request: CredentialRequest) -> Credentials | None:
        """See :class:`~common.ports.CredentialsProvider`."""
        used = await self._known()
        path = path_of(self._vault, request)
        try:
            return await self._run(self._read, path)
        except self._hvac.exceptions.Forbidden:
            await self._known(but_not=used)
            return await self._run(self._read, path)

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def _known(self, but_not: int = -1) -> int:
        """Be logged in, with a token that lives for a while; the number of that login.

        One at a time: who comes while another logs in uses what that one got. A login ``but_not`` was refused.
        """
        async with self._login:
            token = self._token
            if token.number == but_not or not token.number or token.ends_within(LEAST_LIFE):
                await self._run(self._log_in)
            elif token.is_to_be_renewed:
                try:
                    await self._run(self._renew)
                except self._hvac.exceptions.VaultError:
                    await self._run(self._log_in)
            return self._token.number

    def _log_in(self) -> None:
        vault, auth = self._vault, self._client.auth
        mount = vault.auth_mount or vault.auth
        self._client.token = None
        if vault.auth == "token":
            self._client.token = _secret(vault.token, vault.token_file)
            answer = {"auth": _of_lookup(auth.token.lookup_self())}
        elif vault.auth == "approle":
            answer = auth.approle.login(
                role_id=_secret(vault.role_id, None),
                secret_id=_secret(vault.secret_id, vault.secret_id_file),
                mount_point=mount,
                use_token=True,
            )
        else:
            jwt = Path(vault.jwt_file).read_text(encoding="utf-8").strip()
            answer = auth.kubernetes.login(role=vault.role, jwt=jwt, use_token=True, mount_point=mount)
        self._token = _Token.of(answer["auth"], self._token.number + 1)

    def _renew(self) -> None:
        answer = self._client.auth.token.renew_self()
        self._token = _Token.of(answer["auth"], self._token.number)

    def _read(self, path: str) -> Credentials | None:
        try:
            answer = self._client.secrets.kv.v2.read_secret_version(
                path=path, mount_point=self._vault.mount, raise_on_deleted_version=True
            )
        except self._hvac.exceptions.InvalidPath:
            return None
        found, metadata = answer["data"]["data"], answer["data"]["metadata"]
        values = {name: value if isinstance(value, str) else _refuse(name) for name, value in found.items()}
        return Credentials.of(values, version=f"kv {int(metadata['version'])}") if values else None


class _Token:
    """What is known of the token in use. ``number`` counts the logins; 0: there was none."""

    def __init__(self, number: int = 0, life: float = 0.0, *, renewable: bool = False) -> None:
        self.number = number
        self._life = life
        self._begun = time.monotonic()
        self._renewable = renewable

    @staticmethod
    def of(auth: Any, number: int) -> _Token:
        """From the ``auth`` of an answer; a life of 0 is one without end."""
        return _Token(number, float(auth["lease_duration"]), renewable=bool(auth.get("renewable")))

    def ends_within(self, seconds: float) -> bool:
        """Whether it lives no longer than that."""
        return self._life > 0 and time.monotonic() - self._begun >= self._life - seconds

    @property
    def is_to_be_renewed(self) -> bool:
        """Whether most of its life is over."""
        return self._renewable and self._life > 0 and time.monotonic() - self._begun >= self._life * RENEW_AT


def path_of(vault: VaultSettings, request: CredentialRequest) -> str:
    """The path of the secret, each id as one part of it."""
    if request.tenant is None:
        template = vault.tool_path
    else:
        template = vault.tenant_path if request.client is None else vault.client_path
    ids = {"tool": request.tool, "tenant": request.tenant or "", "client": request.client or ""}
    return template.format(**{name: safe_part(value) for name, value in ids.items()})


def _of_lookup(answer: Any) -> dict[str, Any]:
    """What looking a token up says of it, in the words of a login."""
    return {"lease_duration": answer["data"]["ttl"], "renewable": answer["data"].get("renewable")}


def _secret(given: Any, file: str | None) -> str:
    if file is not None:
        return Path(file).read_text(encoding="utf-8").strip()
    text: str = given.get_secret_value()
    return text


def _refuse(name: str) -> str:
    raise TypeError(f"the value of {name!r} is no text")
