"""HTTP requests to one URL over kept connections, as many at once as there are calls."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from common import __version__
from common.domain.egress import STRICT, Judge
from common.domain.networks import parsed
from common.domain.tls import PLAIN_TLS, TlsRules
from common.tls import TlsFileError, http_context
from gateway_worker.egress.http1 import Connection, ConnectionLost, Response
from gateway_worker.egress.http_request import Fields, Origin, request_bytes
from gateway_worker.egress.link import Gate, GateShut, always_open
from gateway_worker.egress.resolving import resolver

MAX_IDLE = 256
IDLE_EXPIRY = 4.0
"""Seconds. Below the 5 s after which common servers hang up on an idle connection: whoever sends in the moment in which
the other side hangs up loses a request that must not be repeated."""
IDLE_EXPIRY_MOST = 30.0
"""Where a server says (``Keep-Alive: timeout=``) that it is more patient."""
STAGGER = 0.25
"""Seconds after which the next address of a name is tried as well (RFC 8305)."""
RECEIVE_BUFFER = 64 * 1024
OWN_FILE: Judge = partial(STRICT.refusal, local=True)
"""What a tool of the operator's own file may connect to without any setting."""


async def tls_context(rules: TlsRules) -> ssl.SSLContext:
    """One for all links of the same rules, until a file changes. Raises :class:`TlsFileError`.

    It is made in a thread: reading the trust store takes 0.1 s.
    """
    kept = http_context(rules)
    return kept.now() if kept.fresh else await asyncio.to_thread(kept.now)


class HttpClient:
    """Requests to one URL. Belongs to one event loop.

    No redirects, cookies or decompression, and nothing from the environment, proxies included: where a tool lives is
    said in its definition. There is no bound on connections in use: the worker bounds its calls.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        connect_timeout: float,
        gate: Gate = always_open,
        judge: Judge = OWN_FILE,
        tls: TlsRules = PLAIN_TLS,
    ) -> None:
        """``headers`` go with every request; ``connect_timeout`` is in seconds, for TCP and TLS together.

        ``judge`` is asked with each new connection whether its addresses may be connected to; ``tls`` is for https.

        Raises :class:`LinkLost` for a URL or headers that HTTP cannot carry.
        """
        self._origin = origin = Origin.of(url)
        basis = {"host": origin.authority, "user-agent": f"canalgate/{__version__}"}
        if origin.authorization is not None:
            basis["authorization"] = origin.authorization
        # None is asked for: a response is bounded by its size as it comes, not by what it unpacks to.
        self.fields = Fields(basis).extended(headers).extended({"accept-encoding": "identity"})
        self._connect_timeout = connect_timeout
        self._gate = gate
        self._judge = judge
        self._tls = tls
        self._buffer = memoryview(bytearray(RECEIVE_BUFFER))
        self._connections: set[Connection] = set()
        self._idle: deque[Connection] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(
        self, verb: str, fields: Fields, body: bytes | None = None, *, gated: bool = True
    ) -> Response:
        """Send a request and wait for the head of its response.

        The gate is asked when there is a connection, right before the request is written, unless it is not ``gated``.
        What the kernel does not take at once of a large request follows without being asked for, until the client is
        closed: its beginning is at the server. Raises :class:`GateShut`, and :class:`ConnectionLost`, ``unsent`` if no
        connection came about.
        """
        request = request_bytes(verb, self._origin.target, fields, body)
        connection = self._take() or await self._connect()
        if gated and not self._gate():
            self._give(connection)
            raise GateShut
        response = connection.send(request)
        try:
            await response.head()
        except BaseException:
            connection.release(response, cancelled=True)
            raise
        return response

    def close(self) -> None:
        """Close all connections; requests under way fail."""
        self._closed = True
        self._idle.clear()
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._connections):
            connection.abort("the tool's session was closed")

    # -- kept connections -------------------------------------------------------------------------------

    def _take(self) -> Connection | None:
        """The connection used last, so that those too many grow old and are closed."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_until > now and connection.usable:
                return connection
            connection.abort("")
        return None

    def _give(self, connection: Connection) -> None:
        if self._closed:
            connection.abort("")
            return
        loop = asyncio.get_running_loop()
        patience = connection.patience
        expiry = IDLE_EXPIRY if patience is None else min(max(patience - 1.0, patience / 2), IDLE_EXPIRY_MOST)
        connection.idle_until = loop.time() + expiry
        self._idle.append(connection)
        if len(self._idle) > MAX_IDLE:
            self._idle.popleft().abort("")
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_EXPIRY, self._expire)

    def _expire(self) -> None:
        """Close what has been idle for too long, and look again while anything is idle."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [it for it in self._idle if it.idle_until <= now]:
            self._idle.remove(connection)
            connection.abort("")
        self._sweep = loop.call_later(IDLE_EXPIRY, self._expire) if self._idle else None

    def _gone(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    # -- new connections --------------------------------------------------------------------------------

    async def _connect(self) -> Connection:
        connection = Connection(self._buffer, on_free=self._give, on_gone=self._gone)
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._open(connection)
        except (OSError, TimeoutError, ValueError) as error:
            # ValueError is for a host, or server_name, that can be no name: an empty label, or one that is too long.
            reason = next(
                (words for kind, words in _REASONS.items() if isinstance(error, kind)), "connection failed"
            )
            raise ConnectionLost(
                f"the tool's URL cannot be reached: {reason}", unsent=True, detail=str(error)
            ) from error
        if self._closed:
            connection.abort("")
            raise ConnectionLost("the tool's session was closed", unsent=True)
        self._connections.add(connection)
        return connection

    async def _open(self, connection: Connection) -> None:
        origin, loop = self._origin, asyncio.get_running_loop()
        try:
            context = await tls_context(self._tls) if origin.secure else None
            sock = await dial(origin.host, origin.port, self._judge)
            try:
                await loop.create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=context,
                    server_hostname=(self._tls.server_name or origin.host) if origin.secure else None,
                )
            except UnicodeError:
                # A server_name that can be no name: it is found out before there is a transport that would close this.
                sock.close()
                raise
        except BaseException:
            connection.abort("")
            raise


class AddressRefused(OSError):
    """The rules of egress say no. The text names the address: it is for operators."""


_REASONS: Mapping[type[Exception], str] = {
    AddressRefused: "its address is refused (egress)",
    TlsFileError: "a file of its tls_* keys cannot be used",
    ssl.SSLError: "TLS failed",
}


async def dial(host: str, port: int, judge: Judge) -> socket.socket:
    """A connected socket: the addresses are tried in turn, each a moment after the one before (RFC 8305).

    The name is resolved once, and what was judged is what is dialled: an answer that changes in between changes
    nothing. Raises :class:`AddressRefused`, or OSError, that of the last address to fail, and UnicodeError for what can
    be no name.
    """
    loop = asyncio.get_running_loop()
    found = await _addresses(host, port)
    if (reason := judge(host, [parsed(entry[4][0]) for entry in found])) is not None:
        raise AddressRefused(reason)
    addresses = deque(_interleaved(found))
    attempts: set[asyncio.Task[socket.socket]] = set()
    failure: BaseException = OSError("the name has no address")
    try:
        while addresses or attempts:
            if addresses:
                attempts.add(loop.create_task(_connected(addresses.popleft())))
            done, _ = await asyncio.wait(
                attempts, timeout=STAGGER if addresses else None, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                attempts.discard(attempt)
                error = attempt.exception()
                if error is None:
                    return attempt.result()
                failure = error
        raise failure
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_forgotten)


async def _addresses(host: str, port: int) -> list[Any]:
    try:
        # An address needs no thread to be looked up in.
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await resolver.addresses(host, port)


def _interleaved(addresses: list[Any]) -> list[Any]:
    """The families in turn, in the order of their first address."""
    families = list(dict.fromkeys(address[0] for address in addresses))
    ranks = dict.fromkeys(families, 0)
    keyed = []
    for address in addresses:
        keyed.append(((ranks[address[0]], families.index(address[0])), address))
        ranks[address[0]] += 1
    return [address for _, address in sorted(keyed, key=lambda pair: pair[0])]


async def _connected(address: Any) -> socket.socket:
    family, kind, protocol, _, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def _forgotten(attempt: asyncio.Task[socket.socket]) -> None:
    """An attempt that another overtook: what it connected is not wanted."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
