"""TLS of our own listener: its context, and how those who belong to it know it again."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable
from pathlib import Path

from common.domain.errors import ConfigurationError
from common.settings import WebSettings
from common.tls import MINIMUM, TlsFileError, load_chain

HANDSHAKE_WITHIN = 5.0
"""Seconds that a client has to shake hands; it waits in a greenlet of its own."""

_DEMANDS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_FIRST = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_SHORT = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
    "domainComponent": "DC",
    "userId": "UID",
    "streetAddress": "STREET",
}


def listener_context(web: WebSettings) -> ssl.SSLContext:
    """What the listener speaks, with the files as they are now. Raises :class:`ConfigurationError`."""
    if web.tls_cert_file is None:
        raise ConfigurationError("web.tls_cert_file is not set", field="web.tls_cert_file")
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = MINIMUM[web.tls_min_version]
        context.set_alpn_protocols(["http/1.1"])
        load_chain(context, web.tls_cert_file, web.tls_key_file)
        if web.tls_client_ca_file is not None:
            context.load_verify_locations(cafile=web.tls_client_ca_file)
        context.verify_mode = _DEMANDS[web.tls_client_auth]
        if context.verify_mode is not ssl.CERT_NONE:
            # A ticket would bring a certificate back that nobody looks at again, also one that the authority, or a
            # reload, has done away with. (TLS 1.2 may still resume by an id, in one process and under these files: such
            # a connection is as one that was kept open, and ends with its certificate as those do.)
            context.num_tickets = 0
            context.options |= ssl.OP_NO_TICKET
    except TlsFileError as error:
        raise ConfigurationError(f"TLS of the listener: {error}", field="web.tls_cert_file") from error
    except OSError as error:
        reason = error.strerror if not isinstance(error, ssl.SSLError) else "not certificates in PEM"
        raise ConfigurationError(
            f"TLS of the listener: {web.tls_client_ca_file}: {reason}", field="web.tls_client_ca_file"
        ) from error
    return context


def own_context(web: WebSettings) -> ssl.SSLContext | None:
    """How programs of ours on this machine speak to the listener; None if it speaks no TLS.

    They ask it by address, whatever its name is, so they trust that very certificate and nothing else: not those
    behind it in the file, whose authority signs for others too. Raises :class:`ConfigurationError`.
    """
    if web.tls_cert_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        own = _FIRST.search(Path(web.tls_cert_file).read_text(encoding="latin-1"))
        context.load_verify_locations(cadata="" if own is None else own[0])
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"TLS of the listener: {web.tls_cert_file} cannot be read", field="web.tls_cert_file"
        ) from error
    return context


def subject_of(names: Iterable[Iterable[tuple[str, str]]]) -> str:
    """The subject of a certificate as Python's TLS gives it, as one line (RFC 4514): ``CN=alice,O=Acme``."""
    parts = [
        "+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in each) for each in names
    ]
    return ",".join(reversed(parts))


def _escaped(value: str) -> str:
    text = "".join(f"\\{each}" if each in ',+"\\<>;=' else each for each in value)
    text = "".join(
        each if each.isprintable() else "".join(f"\\{byte:02X}" for byte in each.encode()) for each in text
    )
    if text.startswith((" ", "#")):
        text = "\\" + text
    return text[:-1] + "\\ " if text.endswith(" ") and len(text) > 1 else text
