"""Where this gateway may connect to, and what may be registered while it runs. Pure.

A tool of the operator's own settings file may lead to this machine and to private networks; one that was registered at
run time only to public addresses, as may whatever URL somebody else has told us. ``allowed_networks`` and
``allowed_hosts`` widen both; a cloud's metadata service is opened by its own address alone. ``denied_networks`` and
``denied_hosts`` go before everything.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from common.domain.custom import CustomTransport
from common.domain.errors import InvalidRequest
from common.domain.networks import LOCAL, Address, Network, Place, embedded, parsed, place_of
from common.domain.tool import HttpTransport, StdioTransport, Tool

Judge = Callable[[str, Iterable[Address]], str | None]
"""Why a host with these addresses may not be connected to; None if it may."""

_HOSTS_LIFT = LOCAL | {Place.SHARED}
"""What a name in ``allowed_hosts`` may resolve to. Never a metadata service: such an answer is an attack."""

_REFUSED_VARIABLES = (
    # Who sets these chooses what code runs: the loader's, those of interpreters and of package runners.
    *("PATH", "LD_*", "DYLD_*", "GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH", "MALLOC_*"),
    *("BASH_ENV", "BASH_FUNC_*", "ENV", "SHELLOPTS", "BASHOPTS", "PS4", "IFS", "PROMPT_COMMAND"),
    *(
        "PYTHON*",
        "NODE_*",
        "RUBY*",
        "PERL*",
        "JAVA_*",
        "_JAVA_OPTIONS",
        "JDK_*",
        "CLASSPATH",
        "LUA_*",
        "PHP*",
    ),
    *("NPM_*", "YARN_*", "PNPM_*", "BUN_*", "DENO_*", "UV_*", "PIP_*", "PIPX_*", "CARGO_*", "DOTNET_*"),
    *("GOPROXY", "GOPATH", "GOROOT", "GOFLAGS"),
    *("GIT_*", "SSH_*", "EDITOR", "VISUAL", "PAGER", "BROWSER", "DOCKER_*"),
    *(
        "HOME",
        "XDG_*",
        "SSL_*",
        "OPENSSL_*",
        "CURL_*",
        "REQUESTS_CA_BUNDLE",
        "*_PROXY",
        "CANALGATE_*",
        "_CANALGATE_*",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRules:
    """The operator's rules. Hosts are names in lower case, ``*.example.com`` for all below one.

    ``allowed_commands`` are command lines: the words of a run-time tool's command line must begin with all the words of
    one of them. ``allowed_factories`` are names of factories as a definition spells them.
    """

    allowed_networks: tuple[Network, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    denied_networks: tuple[Network, ...] = ()
    denied_hosts: tuple[str, ...] = ()
    allowed_commands: tuple[str, ...] = ()
    allowed_factories: tuple[str, ...] = ()
    discovered_networks: tuple[Network, ...] = ()
    discovered_hosts: tuple[str, ...] = ()

    @property
    def for_discovered(self) -> EgressRules:
        """The rules for tools that a source names: what is allowed to those alone is allowed as well."""
        if not (self.discovered_networks or self.discovered_hosts):
            return self
        return replace(
            self,
            allowed_networks=self.allowed_networks + self.discovered_networks,
            allowed_hosts=self.allowed_hosts + self.discovered_hosts,
        )

    def refusal(self, host: str, addresses: Iterable[Address], *, local: bool) -> str | None:
        """Why ``host``, which resolves to ``addresses``, may not be connected to; None if it may.

        All of the addresses have to be good: a name that has both kinds is how a guard is led astray. ``local`` says
        that the operator's own file names the place. The text names the address: it is for operators only.
        """
        name = host.lower().rstrip(".")
        if _matches(name, self.denied_hosts):
            return f"{name} is in egress.denied_hosts"
        lifted = LOCAL if local else frozenset()
        if _matches(name, self.allowed_hosts):
            lifted = _HOSTS_LIFT
        for address in addresses:
            if (reason := self._address_refusal(address, lifted)) is not None:
                return reason
        return None

    def _address_refusal(self, address: Address, lifted: frozenset[Place]) -> str | None:
        if _in(address, self.denied_networks):
            return f"{address} is in egress.denied_networks"
        inner = embedded(address)
        if inner is not None and _in(inner, self.denied_networks):
            return f"{address} means {inner}, which is in egress.denied_networks"
        place = place_of(address)
        if place is Place.PUBLIC or place in lifted:
            return None
        if place is Place.METADATA:
            # It gives away the machine's own credentials: a range that happens to hold it is no leave.
            if _in(address, [network for network in self.allowed_networks if network.num_addresses == 1]):
                return None
            return f"{address} ({place.value}) is not in egress.allowed_networks by itself, as /{address.max_prefixlen}"
        if _in(address, self.allowed_networks):
            # That the form is allowed, for a network that translates, allows nothing inside it.
            return None if inner is None else self._address_refusal(inner, lifted)
        return f"{address} ({place.value}) is not in egress.allowed_networks"

    def check_runtime(self, tool: Tool) -> None:
        """Whether a definition may be registered at run time. Raises :class:`InvalidRequest` that names the field.

        A name is judged when it is connected to; an address that stands in the URL is judged here already.
        """
        if isinstance(tool.transport, StdioTransport):
            self._check_command(tool.transport)
        elif isinstance(tool.transport, CustomTransport):
            self._check_factory(tool.transport)
        else:
            self._check_url(tool.transport)

    def _check_factory(self, transport: CustomTransport) -> None:
        """A factory is code of the worker's own process: only the operator says which is loaded."""
        if transport.factory not in self.allowed_factories:
            raise InvalidRequest(
                "this factory may not be registered while the gateway runs: put the tool into the settings file, or "
                "the factory, spelled the same, into egress.allowed_factories",
                field="factory",
            )

    def _check_command(self, transport: StdioTransport) -> None:
        words = [transport.command, *transport.args]
        if transport.command.startswith("-"):
            raise InvalidRequest(
                "command must not begin with a hyphen: it would be an option", field="command"
            )
        if not any(words[: len(allowed)] == allowed for allowed in map(shlex.split, self.allowed_commands)):
            raise InvalidRequest(
                "this command may not be registered while the gateway runs: put the tool into the settings file, or "
                "the command into egress.allowed_commands",
                field="command",
            )
        for name in transport.env:
            if any(fnmatchcase(name.upper(), pattern) for pattern in _REFUSED_VARIABLES):
                raise InvalidRequest(
                    f"env must not set {name} for a tool that is registered while the gateway runs: it decides what "
                    "code runs; put the tool into the settings file",
                    field="env",
                )

    def _check_url(self, transport: HttpTransport) -> None:
        if transport.tls.files:
            raise InvalidRequest(
                "tls_ca_file, tls_cert_file and tls_key_file name files of the gateway's machine, which a tool that is "
                "registered while the gateway runs may not: put the tool into the settings file",
                field="tls_cert_file",
            )
        host = transport.host
        try:
            addresses = [parsed(host)]
        except ValueError:
            addresses = []
        if self.refusal(host, addresses, local=False) is not None:
            raise InvalidRequest(
                "url leads where a tool that is registered while the gateway runs may not: put the tool into the "
                "settings file, or its network into egress.allowed_networks",
                field="url",
            )


STRICT = EgressRules()
"""Without any setting."""


def _in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(
        name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern for pattern in patterns
    )
