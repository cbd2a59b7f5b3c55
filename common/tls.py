"""TLS contexts from rules: made once, and anew when one of the files named has changed."""

from __future__ import annotations

import os
import ssl
import threading

from common.domain.tls import PLAIN_TLS, TlsRules

MINIMUM = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_Stamp = tuple[tuple[int, int, int], ...]
_made: dict[TlsRules, tuple[_Stamp, ssl.SSLContext]] = {}
_lock = threading.Lock()


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


def kept_context(rules: TlsRules) -> ssl.SSLContext:
    """The context for these rules as their files are now. Raises :class:`TlsFileError`.

    It costs a look at each file: for new connections, not for calls. A file that is being replaced is used as soon as
    it can be: until then the connection fails, and what was read before is not used again.
    """
    stamp = _stamp(rules)
    with _lock:
        found = _made.get(rules)
    if found is not None and found[0] == stamp:
        return found[1]
    context = client_context(rules)
    context.set_alpn_protocols(["http/1.1"])
    with _lock:
        _made[rules] = stamp, context
    return context


def is_fresh(rules: TlsRules) -> bool:
    """Whether :func:`kept_context` has it at once."""
    with _lock:
        found = _made.get(rules)
    return found is not None and found[0] == _stamp(rules)


def _stamp(rules: TlsRules) -> _Stamp:
    try:
        stats = [os.stat(name) for name in rules.files]
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
