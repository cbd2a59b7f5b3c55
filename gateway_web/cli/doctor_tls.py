"""What ``canalgate doctor`` finds of TLS: files that cannot be used, and a server that is not asked who it is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from cryptography import x509

from common.domain.errors import ConfigurationError
from common.domain.tls import TlsRules
from common.domain.tool import HttpTransport
from common.settings import Settings, WebSettings
from common.tls import TlsFileError, client_context
from gateway_web.cli.findings import Finding
from gateway_web.listener_tls import listener_context

SOON = 14
"""Days before the end of a certificate from which on the doctor calls it bad."""


def tls_findings(settings: Settings) -> Iterator[Finding]:
    """Of Redis, the listener and the tools of the file. Files are looked at as they are here, and as this user."""
    yield from _redis(settings)
    yield from _listener(settings.web)
    for tool in settings.tools:
        if isinstance(tool.transport, HttpTransport) and tool.transport.tls.files:
            yield _files(f"tool {tool.id}", tool.transport.tls)


def _listener(web: WebSettings) -> Iterator[Finding]:
    if web.tls_cert_file is None:
        return
    try:
        listener_context(web)
    except ConfigurationError as error:
        yield Finding(False, error.message)
        return
    certificate = x509.load_pem_x509_certificate(Path(web.tls_cert_file).read_bytes())
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    if left.days < SOON:
        yield Finding(
            False, f"web: the certificate runs out in {max(left.days, 0)} days: replace it, then SIGHUP"
        )
    else:
        yield Finding(True, f"web: TLS files can be read; the certificate is good for {left.days} days")


def _redis(settings: Settings) -> Iterator[Finding]:
    rules = settings.redis.tls_rules()
    if rules.files:
        yield _files("redis", rules)
    if settings.redis.url is None:
        return
    said = dict(parse_qsl(urlsplit(str(settings.redis.url)).query))
    checked = said.get("ssl_check_hostname", "true").lower() not in {"false", "0", "no"}
    if said.get("ssl_cert_reqs", "required") != "required" or not checked:
        text = "redis: its certificate is not checked, so anybody in between reads everything"
        yield Finding(False, f"{text}; take ssl_cert_reqs and ssl_check_hostname out of redis.url")


def _files(of: str, rules: TlsRules) -> Finding:
    try:
        client_context(rules)
    except TlsFileError as error:
        return Finding(False, f"{of}: TLS: {error}")
    return Finding(True, f"{of}: TLS files can be read")
