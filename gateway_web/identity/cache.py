"""Callers whose credential was good a moment ago, so that it is not looked at with each request."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from common.domain.invocation import Caller

MOST = 10_000
"""Credentials remembered; of more the one that was used the longest ago is forgotten."""


class CredentialCache:
    """Remembers for a bounded time. What is kept of a credential is a digest under a key of this process."""

    def __init__(self, ttl: float, *, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        """``ttl`` is in seconds; 0 remembers nothing."""
        self._ttl = ttl
        self._most = most
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._found: OrderedDict[bytes, tuple[Caller, float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, credential: str, generation: int = 0) -> Caller | None:
        """The caller, if it was remembered under the same generation and not too long ago."""
        digest = self._digest(credential)
        found = self._found.get(digest)
        if found is None:
            return None
        caller, until, known_at = found
        with self._lock:
            if known_at != generation or self._clock() >= until:
                self._found.pop(digest, None)
                return None
            if digest in self._found:
                self._found.move_to_end(digest)
        return caller

    def put(
        self, credential: str, caller: Caller, *, generation: int = 0, longest: float | None = None
    ) -> None:
        """Remember a caller, at most ``longest`` seconds (None: as long as any)."""
        ttl = self._ttl if longest is None else min(self._ttl, longest)
        if ttl <= 0:
            return
        digest = self._digest(credential)
        with self._lock:
            self._found[digest] = caller, self._clock() + ttl, generation
            self._found.move_to_end(digest)
            while len(self._found) > self._most:
                self._found.popitem(last=False)

    def _digest(self, credential: str) -> bytes:
        return hashlib.blake2b(
            credential.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16
        ).digest()
