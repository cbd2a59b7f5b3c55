"""The key ``kubernetes`` of a source."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from common.settings.fields import AsList, FilePath, checked_http_url
from common.settings.section import Section

_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def _namespaces(values: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_LABEL.fullmatch(value) for value in values) or len(set(values)) != len(values):
        raise ValueError("must hold names of namespaces (lower case letters, digits, hyphens), each once")
    return values


def _domain(value: str) -> str:
    if len(value) > 200 or not all(_LABEL.fullmatch(part) for part in value.split(".")):
        raise ValueError("must be a name such as cluster.local or tools.example.com")
    return value


def _path(value: str) -> str:
    if not value.startswith("/") or any(character in value for character in "?#\\ "):
        raise ValueError("must begin with / and hold no ?, # or space")
    return value


Domain = Annotated[str, AfterValidator(_domain)]


class KubernetesSettings(Section):
    """Services of a Kubernetes cluster as tools, over HTTP. In a pod all of it may be left out."""

    selector: str = Field(
        default="canalgate.dev/mcp=true",
        min_length=1,
        description="Label selector of the services that are tools.",
    )
    namespaces: Annotated[tuple[str, ...], AsList, AfterValidator(_namespaces)] = Field(
        default=(),
        description="Namespaces to look in, each with rights of its own; empty: all, with rights for all.",
    )
    names_from: Annotated[tuple[str, ...], AsList, AfterValidator(_namespaces)] = Field(
        default=(),
        description="Namespaces whose services may choose an id by the annotation name; all others are "
        "<namespace>.<service>.",
    )
    most_services: int = Field(
        default=1000,
        ge=1,
        le=10_000,
        description="Services of one namespace; with more of them its tools stay as they are, and it is told.",
    )
    prefix: Domain = Field(
        default="canalgate.dev",
        description="Before the / of the annotations (or labels) name, path, port, transport, description, "
        "required-scopes.",
    )
    path: Annotated[str, AfterValidator(_path)] = Field(
        default="/mcp", description="Path of the endpoint where no annotation says another."
    )
    cluster_domain: Domain = Field(
        default="cluster.local", description="At the end of the names of services."
    )
    api_url: Annotated[str, AfterValidator(checked_http_url)] | None = Field(
        default=None, description="The API server; absent: the one that a pod's environment names."
    )
    token_file: FilePath | None = Field(
        default=f"{_ACCOUNT}/token",
        description="Token of the service account, read anew each time; null: none.",
    )
    ca_file: FilePath | None = Field(
        default=f"{_ACCOUNT}/ca.crt", description="Authorities in PEM to trust; null: the system's."
    )
    watch_timeout: int = Field(
        default=120,
        ge=1,
        le=3600,
        description="Seconds after which the API server ends a watch, and a new one begins.",
    )
