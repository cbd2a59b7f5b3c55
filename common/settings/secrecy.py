"""Which names mean a secret. One rule, used wherever values are shown or exported.

A name means a secret if one of its words (parts between ``_``, ``-``, ``.`` or a change to capitals) is
one of :data:`SECRET_WORDS`, or if it ends in ``key``, ``token``, ``secret`` or ``password`` (``apikey``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from common.domain.tool import MASK

SECRET_WORDS = frozenset(
    (
        "auth",
        "authorization",
        "bearer",
        "cookie",
        "credential",
        "credentials",
        "dsn",
        "jwt",
        "pass",
        "passphrase",
        "passwd",
        "password",
        "pat",
        "private",
        "pwd",
        "secret",
        "secrets",
        "session",
        "sessionid",
        "signature",
        "token",
        "tokens",
    )
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def means_secret(name: str) -> bool:
    """True if a value under ``name`` is probably a secret."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if any(word in SECRET_WORDS for word in words):
        return True
    last = next((word for word in reversed(words) if word.isalpha()), "")
    return last.endswith(("key", "keys", "token", "secret", "password"))


def masked_args(args: Sequence[str]) -> list[str]:
    """Arguments with the values of secret-looking options hidden: ``--token X`` and ``--api-key=X``."""
    shown: list[str] = []
    hide = False
    for arg in args:
        name, equals, _ = arg.partition("=")
        if hide:
            shown.append(MASK)
            hide = False
            continue
        secret = name.startswith("-") and means_secret(name)
        shown.append(f"{name}={MASK}" if secret and equals else arg)
        hide = secret and not equals
    return shown
