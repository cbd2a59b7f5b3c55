"""The section ``egress``."""

from __future__ import annotations

import re
import shlex
from functools import cached_property
from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, Field

from common.domain.egress import EgressRules
from common.settings.fields import AsList, Plugin
from common.settings.section import Section

_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        if any("%" in value for value in values):
            raise ValueError("an interface")
        return tuple(str(ip_network(value)) for value in values)
    except ValueError:
        raise ValueError(
            "must hold networks such as 10.0.0.0/8 or fd12::/16, or single addresses; the bits behind the length are 0"
        ) from None


def _names(values: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_NAME.fullmatch(value) for value in values):
        raise ValueError("must hold names such as tools.internal or *.internal, without scheme, port or path")
    return tuple(value.lower() for value in values)


def _commands(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            words = shlex.split(value)
        except ValueError:
            words = []
        if not words or words[0].startswith("-"):
            raise ValueError("must hold command lines such as 'uvx mcp-server-time', quoted as for a shell")
    return values


Networks = Annotated[tuple[str, ...], AsList, AfterValidator(_networks)]
HostNames = Annotated[tuple[str, ...], AsList, AfterValidator(_names)]
Factories = Annotated[tuple[Plugin, ...], AsList]
CommandLines = Annotated[tuple[str, ...], AsList, AfterValidator(_commands)]


class EgressSettings(Section):
    """Where the gateway may connect to, and what may be registered while it runs."""

    allowed_networks: Networks = Field(
        default=(),
        description="Networks to connect to although they are not public; tools of this file may lead to this machine "
        "and to private networks without it. A cloud's metadata service is opened by its own address alone.",
    )
    allowed_hosts: HostNames = Field(
        default=(),
        description="Names (`*.internal`: all below) that may resolve to this machine, private and shared networks.",
    )
    denied_networks: Networks = Field(
        default=(), description="Networks that nothing connects to, tools of this file included."
    )
    denied_hosts: HostNames = Field(
        default=(), description="Names that nothing connects to, tools of this file included."
    )
    discovered_networks: Networks = Field(
        default=(),
        description="Networks that tools which a source names (`sources`) may lead to, beside `allowed_networks`.",
    )
    discovered_hosts: HostNames = Field(
        default=(),
        description="Names that such tools may lead to, beside `allowed_hosts`.",
    )
    allowed_commands: CommandLines = Field(
        default=(),
        description="Command lines that a stdio tool registered while the gateway runs must begin with, whole words; "
        "tools of this file need none.",
    )
    allowed_factories: Factories = Field(
        default=(),
        description="Factories of transports (`factory` of a tool) that a tool registered while the gateway runs may "
        "name, spelled the same; its `options` are free. Tools of this file need none.",
    )

    @cached_property
    def rules(self) -> EgressRules:
        """The same, ready for use."""
        return EgressRules(
            allowed_networks=tuple(map(ip_network, self.allowed_networks)),
            allowed_hosts=self.allowed_hosts,
            denied_networks=tuple(map(ip_network, self.denied_networks)),
            denied_hosts=self.denied_hosts,
            allowed_commands=self.allowed_commands,
            allowed_factories=self.allowed_factories,
            discovered_networks=tuple(map(ip_network, self.discovered_networks)),
            discovered_hosts=self.discovered_hosts,
        )
