"""Records posted to a URL, as JSON lines.

What makes a request somebody else's duplicate stands in its headers: the first and the last number in it. Whatever is
not answered with 2xx comes again, in the same order: the delivery thread waits a growing while between two attempts.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterator, Sequence
from typing import Any

from common.domain.audit_chain import SealedRecord
from common.domain.egress import STRICT, EgressRules
from common.domain.errors import ConfigurationError, InvalidRequest
from common.domain.tls import PLAIN_TLS
from common.settings.audit_sinks import WebhookOptions
from common.tls import TlsFileError, client_context

FIRST, LAST = "Canalgate-Audit-First", "Canalgate-Audit-Last"
TIMESTAMP, SIGNATURE = "Canalgate-Timestamp", "Canalgate-Signature"
MOST_ANSWER = 16 * 1024
"""Bytes that are read of an answer; nobody looks at them, but one that breaks off is none."""
TOO_LARGE = 413


class WebhookRefused(Exception):
    """The receiver did not take a request, or not in time. Holds neither the URL nor what was answered."""


class WebhookSink:
    """Implements :class:`common.ports.AuditSink`. Safe is what was answered with 2xx. Belongs to one thread."""

    def __init__(self, options: WebhookOptions, rules: EgressRules = STRICT) -> None:
        """Connects to nothing yet. Raises :class:`ConfigurationError` if a file of its TLS settings cannot be used."""
        from common.egress.client import guarded_client

        self._options = options
        self._secret = b"" if options.secret is None else options.secret.get_secret_value().encode()
        self._limit = options.max_bytes
        self._safe = 0
        headers = {"Content-Type": "application/x-ndjson"}
        if options.token is not None:
            headers["Authorization"] = f"Bearer {options.token.get_secret_value()}"
        try:
            tls_rules = options.tls_rules()
            tls = None if tls_rules == PLAIN_TLS else client_context(tls_rules)
        except (TlsFileError, InvalidRequest) as error:
            raise ConfigurationError(f"audit.sinks: {error}", field="audit.sinks") from error
        self._client = guarded_client(rules, local=True, tls=tls, timeout=options.timeout, headers=headers)

    def write(self, records: Sequence[SealedRecord]) -> int:
        """Post what has not been taken yet. Raises :class:`WebhookRefused` or httpx' errors: nothing is skipped."""
        for batch in self._batches([record for record in records if record.seq > self._safe]):
            self._post(batch)
            self._safe = batch[-1].seq
        return self._safe

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _batches(self, records: Sequence[SealedRecord]) -> Iterator[list[SealedRecord]]:
        """As many as one request may hold; a record alone may always go."""
        batch: list[SealedRecord] = []
        size = 0
        for record in records:
            length = len(record.line())
            if batch and size + length > self._limit:
                yield batch
                batch, size = [], 0
            batch.append(record)
            size += length
        if batch:
            yield batch

    def _post(self, batch: Sequence[SealedRecord]) -> None:
        body = b"".join(record.line() for record in batch)
        status = self._status(body, self._headers(batch, body))
        if status == TOO_LARGE:
            # Smaller ones from now on: the same size would be refused for ever.
            self._limit = max(1, len(body) // 2)
        if not 200 <= status < 300:
            raise WebhookRefused(f"the webhook answered {status}")

    def _headers(self, batch: Sequence[SealedRecord], body: bytes) -> dict[str, str]:
        headers = {FIRST: str(batch[0].seq), LAST: str(batch[-1].seq)}
        if self._secret:
            now = str(int(time.time()))
            headers[TIMESTAMP] = now
            headers[SIGNATURE] = signature(self._secret, now, body)
        return headers

    def _status(self, body: bytes, headers: dict[str, str]) -> int:
        """Of the answer, when it has ended. Raises what httpx does, and :class:`WebhookRefused` if it drips."""
        end = time.monotonic() + self._options.timeout
        read = 0
        answer: Any
        with self._client.stream("POST", str(self._options.url), content=body, headers=headers) as answer:
            for part in answer.iter_raw():
                read += len(part)
                if read > MOST_ANSWER:
                    break
                if time.monotonic() > end:
                    raise WebhookRefused("the webhook's answer does not end")
            return int(answer.status_code)


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """What the header of a request with this body and timestamp holds: ``sha256=`` and an HMAC in hexadecimal."""
    return "sha256=" + hmac.digest(secret, timestamp.encode() + b"." + body, "sha256").hex()
