"""Secrets in log lines: a net below everything that must not log them in the first place."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from common.domain.tool import MASK

SECRET_NAMES: Final = frozenset(
    {
        *(
            "authorization",
            "proxyauthorization",
            "cookie",
            "setcookie",
            "apikey",
            "xapikey",
            "password",
            "passwd",
        ),
        *(
            "secret",
            "clientsecret",
            "token",
            "accesstoken",
            "refreshtoken",
            "idtoken",
            "credential",
            "credentials",
        ),
        *("privatekey", "params", "arguments", "headers", "result", "env"),
    }
)
"""Names under which a value is a secret, or may hold one, without their capitals, hyphens and underscores."""
_SHAPES: Final = re.compile(
    r"(?P<scheme>\b(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{8,}"
    r"|(?P<url>[a-z][a-z0-9+.-]{0,20}://[^\s:/@]{0,64}:)[^\s/@]{1,256}(?=@)"
    r"|(?P<named>\b(?:password|passwd|secret|token|api[_-]?key|authorization)['\"]?\s{0,2}[=:]\s{0,2}['\"]?"
    r"(?:(?:bearer|basic)\s+)?)[^\s'\",;&)}]{4,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"
    r"|\b(?:sk-|ghp_|gho_|github_pat_|xox[abp]-|glpat-|AKIA|hvs\.)[A-Za-z0-9_-]{10,}",
    re.IGNORECASE,
)
_MOST_DEPTH: Final = 4


def mask_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: what has a secret's name or looks like a secret is hidden. Numbers are left alone."""
    for name, value in event.items():
        event[name] = masked_value(name, value)
    return event


def masked_value(name: str, value: Any, depth: int = 0) -> Any:
    """A value as it may be logged under a name."""
    if isinstance(value, str | bytes):
        if _means_secret(name):
            return MASK
        return masked_text(value) if isinstance(value, str) else value
    if depth >= _MOST_DEPTH:
        return value
    if isinstance(value, Mapping):
        if value and _means_secret(name):
            return MASK
        return {key: masked_value(str(key), inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked_value(name, inner, depth + 1) for inner in value]
    return value


def masked_text(text: str) -> str:
    """A text with what looks like a secret in it hidden; what says that it is one stays."""
    return _SHAPES.sub(lambda found: f"{found['scheme'] or found['url'] or found['named'] or ''}{MASK}", text)


def _means_secret(name: str) -> bool:
    return name.lower().replace("-", "").replace("_", "") in SECRET_NAMES
