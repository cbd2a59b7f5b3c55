"""The section ``credentials``: who is asked for the secrets of tools, and how long the answers are kept."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, model_validator

from common.domain.credentials import Credentials
from common.settings.credential_owner import CredentialOwner, check_apart
from common.settings.fields import AsList, CacheSize, Id, Seconds, SecondsOrZero
from common.settings.section import Section

_PROVIDER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}(:[A-Za-z_][A-Za-z0-9_]{0,63})?")
_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*[A-Za-z0-9]|[A-Za-z]")


def _provider_names(values: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_PROVIDER.fullmatch(value) for value in values):
        raise ValueError(
            "must hold names of providers (static, environment, file, vault, aws, gcp, client_credentials, "
            "token_exchange, one that a package brings), or classes as package.module:Class"
        )
    if len(set(values)) != len(values):
        raise ValueError("names a provider twice")
    return values


def _variable_prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value) or "__" in value or value.upper().startswith("CANALGATE"):
        raise ValueError(
            "must be letters, digits and single '_', not at the end, and must not begin with CANALGATE"
        )
    return value


def _values(values: dict[str, SecretStr]) -> dict[str, SecretStr]:
    try:
        Credentials.of({name: value.get_secret_value() for name, value in values.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot be credentials: {error}") from None
    if not values:
        raise ValueError("must have at least one value")
    return values


class StaticCredential(CredentialOwner):
    """The secrets of one tool, for one tenant or client of it where those have their own."""

    values: Annotated[dict[str, SecretStr], AfterValidator(_values)] = Field(
        description="The secrets by the keys that the tool's `credentials.inject` names."
    )


class CredentialsSettings(Section):
    """Where the secrets of tools come from. Only workers ask; nothing of them is ever written to Redis or a queue."""

    providers: Annotated[tuple[str, ...], AsList, AfterValidator(_provider_names)] = Field(
        default=(),
        description="Who is asked, in this order: static, environment, file, vault, aws, gcp, client_credentials, "
        "token_exchange, the name of an entry point (group canalgate.credentials), or your own class as "
        "package.module:Class. The first that knows wins.",
    )
    timeout: Seconds = Field(
        default=5.0, description="Longest wait for one provider; beyond it, it counts as failed."
    )
    cache_ttl: Seconds = Field(
        default=300.0,
        description="How long an answer is used, if it does not expire before; then it is asked for again.",
    )
    cache_size: CacheSize = Field(
        default=1000, description="Most answers that a worker keeps; beyond it the longest unused one goes."
    )
    negative_ttl: SecondsOrZero = Field(
        default=5.0, description="How long it is remembered that nobody knew any, or that a provider failed."
    )
    refresh_ahead: SecondsOrZero = Field(
        default=30.0,
        description="How long before their expiry credentials of a live session are asked for again.",
    )
    static: Annotated[tuple[StaticCredential, ...], AsList] = Field(
        default=(),
        description="Secrets of the static provider, each with tool, tenant or client, and values.",
    )
    environment_prefix: Annotated[str, AfterValidator(_variable_prefix)] = Field(
        default="CREDENTIAL",
        description="Begins the variables of the environment provider: `<prefix>__<tool>__<tenant>__<key>`.",
    )
    directory: str = Field(
        default="/run/secrets/canalgate",
        min_length=1,
        description="Directory of the file provider: `<directory>/<tool>/<tenant>/<key>`.",
    )
    discovery_tenant: Id | None = Field(
        default=None,
        description="Tenant as which the gateway itself lists and probes tools whose credentials are a tenant's; "
        "absent: it does so without credentials.",
    )
    discovery_client: Id | None = Field(
        default=None, description="Client of that tenant, for tools whose credentials are a client's."
    )

    discovery_subject: Id | None = Field(
        default=None, description="Subject behind that client, for tools whose credentials are a subject's."
    )

    @model_validator(mode="after")
    def _agrees(self) -> CredentialsSettings:
        if self.discovery_subject is not None and self.discovery_client is None:
            raise ValueError("discovery_subject needs discovery_client")
        if self.discovery_client is not None and self.discovery_tenant is None:
            raise ValueError("discovery_client needs discovery_tenant")
        check_apart("static", self.static)
        return self
