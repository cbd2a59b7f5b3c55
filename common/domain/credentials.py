"""Credentials: named secret values for a tool, and for whom they are asked."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.tool import MASK

MAX_VALUE_BYTES = 64 << 10
"""Longest secret in bytes of UTF-8: an environment variable or a header holds no more."""
MAX_VALUES = 100

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_OTHERS = re.compile(rb"[^A-Za-z0-9]")
_PROCESS_KEY = secrets.token_bytes(32)


class Secret:
    """A text that shows itself only when asked: never by ``repr``, ``str``, formatting or pickle."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. Whoever asks must not log it, nor put it into an error."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRequest:
    """Whose credentials for which tool are wanted.

    ``tenant`` is None for a tool whose credentials are everybody's (``scope: tool``), ``client`` for one whose
    credentials are the tenant's. ``subject`` is None unless they are each subject's own (``scope: subject``), who acts
    with these ``scopes``; "" is a caller whom nobody named. It is a key of the cache:
    parts stay apart, so none can run into another.
    """

    tool: ToolId
    tenant: TenantId | None = None
    client: ClientId | None = None
    subject: str | None = None
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a provider knows.

    ``expires_in`` is for how many seconds from now the values work, ``max_age`` after how many it is worth asking
    again, though they still work; None: for ever, and as the settings say. ``issued`` says that each question gets
    other values (a token made for us), so that to ask again before they expire changes what is good: they are kept
    until shortly before their expiry. ``version`` is the provider's own word for
    these values (a number of Vault's, an id); it is shown to operators and must not tell of the values.

    Raises ValueError or TypeError for what cannot be credentials; the message never holds a value.
    """

    values: Mapping[str, Secret] = field(repr=False)
    expires_in: float | None = None
    max_age: float | None = None
    version: str = ""
    issued: bool = False

    def __post_init__(self) -> None:
        if len(self.values) > MAX_VALUES:
            raise ValueError(f"there are more than {MAX_VALUES} values")
        for name, value in self.values.items():
            if not isinstance(name, str) or not _KEY.fullmatch(name):
                raise ValueError("a name is not made of letters, digits, '.', '_' and '-'")
            if not isinstance(value, Secret):
                raise TypeError(f"the value of {name!r} is no Secret")
            _check_text(name, value.reveal())
        for seconds in (self.expires_in, self.max_age):
            if seconds is not None and not (isinstance(seconds, int | float) and seconds >= 0):
                raise ValueError("expires_in and max_age must be seconds, 0 or more")

    @staticmethod
    def of(
        values: Mapping[str, str],
        *,
        expires_in: float | None = None,
        max_age: float | None = None,
        version: str = "",
        issued: bool = False,
    ) -> Credentials:
        """From plain text."""
        found = {name: Secret(value) for name, value in values.items()}
        return Credentials(
            values=found, expires_in=expires_in, max_age=max_age, version=version, issued=issued
        )

    @property
    def fingerprint(self) -> str:
        """Tells other values from the same ones, within this process; nothing can be learnt of them from it."""
        mac = hmac.new(_PROCESS_KEY, digestmod=hashlib.sha256)
        for name, value in sorted(self.values.items()):
            for part in (name.encode(), value.reveal().encode()):
                mac.update(len(part).to_bytes(8, "big") + part)
        return mac.hexdigest()[:16]


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(f"the value of {name!r} is no text")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"the value of {name!r} has no UTF-8 form") from None
    if not text or size > MAX_VALUE_BYTES:
        raise ValueError(f"the value of {name!r} is empty, or has more than {MAX_VALUE_BYTES} bytes")


def safe_part(value: str) -> str:
    """An id as part of a path or of a variable's name: letters and digits as they are, all else ``_XX`` for a byte.

    ``__`` between two parts cannot come out of one of them: whatever stands there, (``a-b``, ``c``) is never
    (``a``, ``b-c``), ``..`` is no directory, and two ids have two names.
    """
    return _OTHERS.sub(lambda found: f"_{found[0][0]:02X}".encode(), value.encode()).decode()
