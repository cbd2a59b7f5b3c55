"""TLS contexts from rules: made once, and anew when one of the files named has changed."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Sequence
from functools import cache

from common.domain.tls import PLAIN_TLS, TlsRules

MINIMUM = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_Stamp = tuple[tuple[int, int, int], ...]


class TlsFileError(OSError):
    """A file named in TLS settings cannot be used. The text names the file and the reason, never what is in it."""


def client_context(rules: TlsRules = PLAIN_TLS) -> ssl.SSLContext:
    """A new context. Raises :class:`TlsFileError`. The system's authorities take 0.1 s to read."""
    try:
        context = ssl.create_default_context(cafile=rules.ca_file)
    except OSError as error:
        raise TlsFileError(f"{rules.ca_file}: {_why(error)}") from error
    context.minimum_version = MINIMUM[rules.min_version]
    if rules.cert_file is not None:
        load_chain(context, rules.cert_file, rules.key_file)
    return context


def load_chain(context: ssl.SSLContext, cert_file: str, key_file: str | None) -> None:
    """What this end shows. Raises :class:`TlsFileError`."""
    try:
        # A key behind a passphrase would have OpenSSL ask at the terminal.
        context.load_cert_chain(cert_file, key_file, password=_no_passphrase)
    except (OSError, ValueError) as error:
        names = cert_file if key_file is None else f"{cert_file}, {key_file}"
        raise TlsFileError(f"{names}: {_why(error)}") from error


class KeptContext:
    """A context that is made anew when one of its files has changed.

    To ask for it costs a look at each file: for new connections, not for calls. While a file is being replaced
    connections fail: what was read before is not used again.
    """

    def __init__(self, files: Sequence[str], make: Callable[[], ssl.SSLContext]) -> None:
        self._files = tuple(files)
        self._make = make
        self._made: tuple[_Stamp, ssl.SSLContext] | None = None

    @property
    def fresh(self) -> bool:
        """Whether :meth:`now` has it at once. Raises :class:`TlsFileError`."""
        made = self._made
        return made is not None and made[0] == _stamp(self._files)

    def now(self) -> ssl.SSLContext:
        """The context as the files are now. Raises :class:`TlsFileError`."""
        made, stamp = self._made, _stamp(self._files)
        if made is None or made[0] != stamp:
            made = self._made = stamp, self._make()
        return made[1]


@cache
def http_context(rules: TlsRules) -> KeptContext:
    """That of all HTTP connections under the same rules."""

    def make() -> ssl.SSLContext:
        context = client_context(rules)
        context.set_alpn_protocols(["http/1.1"])
        return context

    return KeptContext(rules.files, make)


def _stamp(files: Sequence[str]) -> _Stamp:
    try:
        stats = [os.stat(name) for name in files]
    except OSError as error:
        raise TlsFileError(f"{error.filename}: {_why(error)}") from error
    return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in stats)


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the key does not belong to the certificate"
        return "not what it should be: a certificate or key in PEM"
    if isinstance(error, ValueError):
        return "the key is behind a passphrase: give one that is not"
    return getattr(error, "strerror", None) or "cannot be read"


def _no_passphrase() -> str:
    raise ValueError("passphrase")
