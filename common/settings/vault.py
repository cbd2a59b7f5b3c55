"""The section ``vault``: the credentials provider of that name."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from common.settings.fields import LowerCase, checked_http_url
from common.settings.section import Section

_PART = re.compile(r"\{([^{}]*)\}")
PLACES = frozenset({"tool", "tenant", "client"})


def _template(value: str) -> str:
    bare = _PART.sub("x", value)
    if not set(_PART.findall(value)) <= PLACES or not re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", bare):
        raise ValueError(
            "must be a path of letters, digits, '_' and '-' with {tool}, {tenant} and {client} for parts, "
            "without a slash at its ends"
        )
    if "{tool}" not in value:
        raise ValueError("must hold {tool}: else all tools would have the same secrets")
    return value


def _mount(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", value):
        raise ValueError("must be the path of a mount, without a slash at its ends")
    return value


_Path = Annotated[str, AfterValidator(_template)]
_Mount = Annotated[str, AfterValidator(_mount)]


class VaultSettings(Section):
    """HashiCorp Vault or OpenBao, with secrets in a key-value engine of version 2 (extra `vault`)."""

    url: Annotated[str, AfterValidator(checked_http_url)] | None = Field(
        default=None,
        description="Its address, such as https://vault.example.com:8200; the provider needs it.",
    )
    namespace: str | None = Field(
        default=None, min_length=1, description="Namespace, where the server has such."
    )
    mount: _Mount = Field(default="secret", description="Where the key-value engine is mounted.")
    tool_path: _Path = Field(default="canalgate/{tool}", description="Path of secrets with `scope: tool`.")
    tenant_path: _Path = Field(
        default="canalgate/{tool}/{tenant}", description="Path of secrets with `scope: tenant`."
    )
    client_path: _Path = Field(
        default="canalgate/{tool}/{tenant}/{client}", description="Path of secrets with `scope: client`."
    )
    auth: Annotated[Literal["token", "approle", "kubernetes"], LowerCase] = Field(
        default="token", description="How a worker makes itself known: token, approle or kubernetes."
    )
    auth_mount: _Mount | None = Field(
        default=None, description="Where the auth method is mounted; absent: at its own name."
    )
    token: SecretStr | None = Field(default=None, description="The token, with auth: token.")
    token_file: str | None = Field(
        default=None,
        description="File that holds the token instead, such as an agent's sink; read at each login.",
    )
    role_id: SecretStr | None = Field(default=None, description="RoleID, with auth: approle.")
    secret_id: SecretStr | None = Field(default=None, description="SecretID, with auth: approle.")
    secret_id_file: str | None = Field(
        default=None, description="File that holds the SecretID instead; read at each login."
    )
    role: str | None = Field(default=None, min_length=1, description="Role, with auth: kubernetes.")
    jwt_file: str = Field(
        default="/var/run/secrets/kubernetes.io/serviceaccount/token",
        description="File with the service account's token, with auth: kubernetes; read at each login.",
    )
    ca_file: str | None = Field(
        default=None, description="File with the authorities to trust; absent: those of the system."
    )

    @model_validator(mode="after")
    def _agrees(self) -> VaultSettings:
        if "{tenant}" not in self.tenant_path or not {"{tenant}", "{client}"} <= set(
            _parts(self.client_path)
        ):
            raise ValueError(
                "tenant_path must hold {tenant}, and client_path {tenant} and {client}: else others' secrets are given"
            )
        if set(_parts(self.tool_path)) != {"{tool}"} or "{client}" in self.tenant_path:
            raise ValueError("tool_path knows only {tool}, and tenant_path only {tool} and {tenant}")
        if self.url is None:
            return self
        if self.auth == "token" and (self.token is None) == (self.token_file is None):
            raise ValueError("auth token needs token or token_file, and only one of them")
        if self.auth == "approle" and (
            self.role_id is None or (self.secret_id is None) == (self.secret_id_file is None)
        ):
            raise ValueError("auth approle needs role_id, and either secret_id or secret_id_file")
        if self.auth == "kubernetes" and self.role is None:
            raise ValueError("auth kubernetes needs role")
        return self


def _parts(template: str) -> list[str]:
    return [f"{{{name}}}" for name in _PART.findall(template)]
