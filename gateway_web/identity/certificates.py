"""The resolver mtls: the client certificate that a trusted proxy has checked, in a header of its own, or our listener.

Sources: Envoy, "x-forwarded-client-cert"; RFC 4514 for subject names.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

from common.domain.errors import InvalidRequest
from common.domain.ids import ClientId, TenantId, checked_id
from common.domain.invocation import Caller
from common.ports import RequestFacts
from common.settings import MtlsSettings
from gateway_web.identity.refusals import Ambiguous, Reason, Unrecognised

MAX_HEADER = 16 * 1024
_PAIR = re.compile(r'([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^";,]*)(;|,|$)')
_ATTRIBUTE = re.compile(r"\s*([A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+)\s*=\s*")
_VALUE = re.compile(r'"((?:[^"\\]|\\.)*)"|((?:[^\\,+";]|\\.)*)', re.DOTALL)
_ESCAPE = re.compile(r"((?:\\[0-9A-Fa-f]{2})+)|\\(.)", re.DOTALL)


class CertificateResolver:
    """Who the certificate is of."""

    def __init__(self, settings: MtlsSettings, now: Callable[[], float] = time.time) -> None:
        """``now`` is the time in seconds since 1970."""
        self._settings = settings
        self._now = now
        self._header = settings.header.lower()

    def resolve(self, request: RequestFacts) -> Caller | None:
        """The caller in the certificate; None if none was shown, or the header is not there."""
        if self._settings.form == "listener":
            # No header counts then, also none of a trusted proxy's: whoever wants both needs two gateways.
            if request.tls_subject is None:
                return None
            if request.tls_subject_until is not None and self._now() > request.tls_subject_until:
                # Also of a stream that was opened before, and is looked at again.
                raise Unrecognised(Reason.EXPIRED, "the client certificate has run out")
            return self._caller(request.tls_subject)
        value = request.headers.get(self._header)
        if value is None:
            return None
        if not request.from_proxy:
            raise Unrecognised(
                Reason.UNTRUSTED_PEER, "headers that say who calls are taken from web.trusted_proxies only"
            )
        if not value.strip():
            return None  # as proxies send it for a client that showed none
        if len(value) > MAX_HEADER:
            raise _malformed()
        return self._caller(value.strip() if self._settings.form == "dn" else self._part(value.strip()))

    def _part(self, value: str) -> str:
        """What names the caller in Envoy's form: of one certificate, and once."""
        wanted = self._settings.source
        found = [text for name, text in xfcc_pairs(value, self._settings.header) if name.lower() == wanted]
        if len(found) != 1:
            raise Unrecognised(
                Reason.MALFORMED,
                f"the client certificate must have exactly one {wanted}, but has {len(found)}",
            )
        return found[0]

    def _caller(self, name: str) -> Caller:
        settings = self._settings
        try:
            whole = checked_id(name, field="subject")
            if settings.source != "subject":
                return Caller(tenant=TenantId(str(settings.tenant)), client=ClientId(whole), subject=whole)
            attributes = list(dn_attributes(name))
            tenant = settings.tenant or self._only(attributes, str(settings.tenant_attribute))
            client = self._only(attributes, settings.client_attribute)
        except InvalidRequest as error:
            if isinstance(error, Ambiguous):
                raise
            raise _malformed() from None
        return Caller(tenant=TenantId(tenant), client=ClientId(client), subject=whole)

    def _only(self, attributes: list[tuple[str, str]], wanted: str) -> str:
        """The value of an attribute that must be there once: two of them may be a client's header and the proxy's."""
        found = [value for name, value in attributes if name.lower() == wanted.lower()]
        if len(found) > 1:
            raise Ambiguous(f"the subject has more than one {wanted}", field=self._settings.header)
        if not found:
            raise Unrecognised(Reason.MALFORMED, f"the subject of the client certificate has no {wanted}")
        return checked_id(found[0], field=wanted)


def xfcc_pairs(value: str, header: str) -> Iterator[tuple[str, str]]:
    """The pairs of the one element of Envoy's header. Raises :class:`Ambiguous` for several elements."""
    at = 0
    while at < len(value):
        found = _PAIR.match(value, at)
        if found is None:
            raise _malformed()
        if found[3] == ",":
            raise Ambiguous(
                f"{header} holds more than one certificate: have the proxy set it anew (SANITIZE_SET)",
                field=header,
            )
        text = found[2]
        yield found[1], re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text
        at = found.end()


def dn_attributes(name: str) -> Iterator[tuple[str, str]]:
    """Attributes and values of a subject name (RFC 4514), whatever their order. Raises :class:`Unrecognised`."""
    at = 0
    while True:
        attribute = _ATTRIBUTE.match(name, at)
        if attribute is None:
            raise _malformed()
        value = _VALUE.match(name, attribute.end())
        if value is None:
            raise _malformed()
        yield attribute[1], _unescaped(_trimmed(value[2]) if value[1] is None else value[1])
        at = value.end()
        if at == len(name):
            return
        if name[at] not in ",+;":
            raise _malformed()
        at += 1


def _trimmed(text: str) -> str:
    """Without the spaces around it; one that is escaped belongs to the value."""
    bare = text.strip()
    escapes = len(bare) - len(bare.rstrip("\\"))
    rest = text.lstrip()[len(bare) :]
    return bare + rest[:1] if escapes % 2 else bare


def _unescaped(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[2]
        return bytes.fromhex(found[1].replace("\\", "")).decode("utf-8", "surrogateescape")

    return _ESCAPE.sub(plain, text)


def _malformed() -> Unrecognised:
    return Unrecognised(Reason.MALFORMED, "what is said of the client certificate cannot be read")
