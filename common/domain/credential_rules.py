"""The rules of a tool that say which credentials it gets, from whom, and where they are put."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from common.domain.errors import InvalidRequest
from common.domain.rules import Routing, choice

FIELD = "credentials"


class CredentialMode(StrEnum):
    """What happens to a call whose tool's credentials cannot be had."""

    REQUIRED = "required"
    """It is refused, and nothing is started."""
    OPTIONAL = "optional"
    """It goes on without."""


class CredentialScope(StrEnum):
    """Whose credentials a session with the tool carries."""

    TOOL = "tool"
    """The tool's own, the same for all callers."""
    TENANT = "tenant"
    CLIENT = "client"
    SUBJECT = "subject"
    """Each subject's, with the scopes that it acts with."""


WITHOUT_SUBJECTS = frozenset(("static", "environment", "file", "vault", "client_credentials", "aws", "gcp"))
"""Providers that know nothing of subjects: with ``scope: subject`` they would give what is the client's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """Where values go: variable -> key, header -> template (``Bearer {key}``), member of ``_meta`` -> key.

    ``secrets`` is name -> key, for what opens the sessions of a transport of one's own. A member that begins with ``/``
    is a JSON pointer (RFC 6901) into ``_meta``.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRules:
    """``providers`` are asked in this order; none named: all that the settings name, in their order."""

    mode: CredentialMode = CredentialMode.REQUIRED
    scope: CredentialScope = CredentialScope.TENANT
    providers: tuple[str, ...] = ()
    inject: Injection = field(default_factory=Injection)

    def __post_init__(self) -> None:
        if len(set(self.providers)) != len(self.providers):
            raise _fault("providers", "names a provider twice")
        inject = self.inject
        if not (inject.env or inject.headers or inject.meta or inject.secrets):
            raise _fault("inject", "must say where the values go: env, headers, meta or secrets")
        for name, key in inject.env.items():
            _check_variable(name)
            _check_key(key, "inject.env")
        for name, template in inject.headers.items():
            _check_header(name)
            for key in keys_of(template):
                _check_key(key, "inject.headers")
        for name, key in inject.meta.items():
            _check_member(name)
            _check_key(key, "inject.meta")
        for name, key in inject.secrets.items():
            _check_key(name, "inject.secrets")
            _check_key(key, "inject.secrets")
        _check_apart([pointer_of(name) for name in inject.meta])


TransportKind = Literal["stdio", "http", "custom"]
_INTO: Mapping[TransportKind, tuple[str, str]] = {
    "stdio": ("env", "a child process gets credentials by env or meta"),
    "http": ("headers", "an HTTP tool gets credentials by headers or meta"),
    "custom": ("secrets", "a transport of your own gets credentials by secrets or meta"),
}
_GOES_WITH = {"env": "command", "headers": "url", "secrets": "factory"}


def check_goes_with(rules: CredentialRules, routing: Routing, kind: TransportKind) -> None:
    """Raise :class:`InvalidRequest` for rules that contradict the tool they belong to."""
    fits, words = _INTO[kind]
    for place, head in _GOES_WITH.items():
        if place != fits and getattr(rules.inject, place):
            raise _fault(f"inject.{place}", f"goes with {head}; {words}")
    if routing is Routing.LEAST_LOADED and rules.scope is not CredentialScope.TOOL:
        raise _fault(
            "scope",
            f"{rules.scope.value} does not go with routing: least_loaded, whose sessions serve all callers: "
            "one would act under another's credentials; set scope to tool, or routing to sticky",
        )


_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_REFUSED_ENV_PREFIXES = (
    *(
        "LD_",
        "DYLD_",
        "PYTHON",
        "PERL5",
        "RUBY",
        "NODE_",
        "NPM_CONFIG_",
        "BASH_",
        "GCONV_",
        "GLIBC_",
        "MALLOC_",
    ),
    *("GIT_CONFIG", "CANALGATE", "_CANALGATE"),
)
_REFUSED_ENV_NAMES = frozenset(
    (
        *(
            "PATH",
            "HOME",
            "SHELL",
            "IFS",
            "ENV",
            "SHELLOPTS",
            "PS4",
            "PROMPT_COMMAND",
            "CDPATH",
            "TMPDIR",
            "TERM",
        ),
        *("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH", "NLSPATH", "LOCPATH"),
        *(
            "GIT_SSH",
            "GIT_SSH_COMMAND",
            "GIT_EXEC_PATH",
            "GIT_ASKPASS",
            "GIT_EDITOR",
            "GIT_PAGER",
            "EDITOR",
            "VISUAL",
        ),
        *("PAGER", "BROWSER", "RES_OPTIONS", "HOSTALIASES", "OPENSSL_CONF", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "USER", "LOGNAME", "LANG", "TZ"),
    )
)


def _check_variable(name: str) -> None:
    upper = name.upper()
    if not _ENV_NAME.fullmatch(name):
        raise _fault("inject.env", "must map names of environment variables (letters, digits, '_') to keys")
    if upper in _REFUSED_ENV_NAMES or upper.startswith(_REFUSED_ENV_PREFIXES):
        raise _fault(
            "inject.env",
            f"must not set {name}: a secret there would be taken for an order by a loader, a shell or a runtime",
        )


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REFUSED_HEADERS = frozenset(
    (
        *(
            "host",
            "connection",
            "content-length",
            "content-type",
            "transfer-encoding",
            "te",
            "trailer",
            "upgrade",
        ),
        *(
            "accept",
            "accept-encoding",
            "expect",
            "keep-alive",
            "last-event-id",
            "content-encoding",
            "proxy-connection",
        ),
    )
)


def _check_header(name: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise _fault("inject.headers", "must map header names to templates")
    if name.lower() in _REFUSED_HEADERS or name.lower().startswith("mcp-"):
        raise _fault("inject.headers", f"must not set {name}, which the protocol itself needs")


_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_TEMPLATE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def _check_key(key: str, place: str) -> None:
    if not _KEY.fullmatch(key):
        raise _fault(place, "must name keys made of letters, digits, '.', '_' and '-'")


def keys_of(template: str) -> tuple[str, ...]:
    """The keys in a header's template. Raises :class:`InvalidRequest` for one without, and for a stray brace."""
    found = list(_TEMPLATE.finditer(template))
    keys = tuple(part[1] for part in found if part[1] is not None)
    if not keys or any(part[0] in "{}" for part in found):
        raise _fault(
            "inject.headers",
            "must hold templates with keys in braces, such as 'Bearer {token}'; '{{' is a brace",
        )
    if any(not 0x20 <= ord(character) <= 0x7E for character in template) or template != template.strip():
        raise _fault("inject.headers", "must hold templates of printable ASCII without spaces around them")
    return keys


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with values for its keys, which must all be there."""

    def part(match: re.Match[str]) -> str:
        return match[0][0] if match[1] is None else values[match[1]]

    return _TEMPLATE.sub(part, template)


def pointer_of(member: str) -> tuple[str, ...]:
    """The way to a member of ``_meta``: a name, or the parts of a JSON pointer."""
    if not member.startswith("/"):
        return (member,)
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in member[1:].split("/"))


def _check_member(member: str) -> None:
    way = pointer_of(member)
    if not all(way) or len(way) > 8 or len(member) > 256 or not member.isprintable():
        raise _fault(
            "inject.meta", "must map members of _meta (a name, or a JSON pointer such as /a/b) to keys"
        )
    if way[0] == "progressToken" or _RESERVED.match(way[0]):
        raise _fault("inject.meta", f"must not set {member}, which the protocol itself uses")


_RESERVED = re.compile(r"([A-Za-z0-9-]+\.)?(modelcontextprotocol|mcp)[./]")
"""Prefixes that the protocol keeps for itself ("_meta", 2025-11-25)."""


def _check_apart(ways: Iterable[tuple[str, ...]]) -> None:
    """No member may stand inside another: one would be overwritten."""
    found = sorted(ways)
    for one, other in itertools.pairwise(found):
        if other[: len(one)] == one:
            raise _fault("inject.meta", "has a member that stands inside another one")


def _fault(place: str, words: str) -> InvalidRequest:
    return InvalidRequest(f"{FIELD}.{place} {words}", field=f"{FIELD}.{place}")


def credentials_to_wire(rules: CredentialRules | None) -> dict[str, Any] | None:
    """The rules as plain JSON; there is no secret in them."""
    if rules is None:
        return None
    inject = rules.inject
    return {
        "mode": rules.mode.value,
        "scope": rules.scope.value,
        "providers": list(rules.providers),
        "inject": {
            "env": dict(inject.env),
            "headers": dict(inject.headers),
            "meta": dict(inject.meta),
            **({"secrets": dict(inject.secrets)} if inject.secrets else {}),
        },
    }


def credentials_from_wire(wire: Mapping[str, Any] | None) -> CredentialRules | None:
    """Inverse of :func:`credentials_to_wire`. Raises :class:`InvalidRequest`."""
    if wire is None:
        return None
    inject = wire.get("inject", {})
    return CredentialRules(
        mode=choice(CredentialMode, wire.get("mode", CredentialMode.REQUIRED), field=f"{FIELD}.mode"),
        scope=choice(CredentialScope, wire.get("scope", CredentialScope.TENANT), field=f"{FIELD}.scope"),
        providers=tuple(wire.get("providers", ())),
        inject=Injection(
            env=inject.get("env", {}),
            headers=inject.get("headers", {}),
            meta=inject.get("meta", {}),
            secrets=inject.get("secrets", {}),
        ),
    )
