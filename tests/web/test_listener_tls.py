"""TLS of our own listener: who is let in, what is told of him, and that nobody who is slow holds up others."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from common.domain.errors import ConfigurationError
from common.settings import WebSettings, load
from gateway_web.listener_tls import listener_context, own_context, subject_of
from gateway_web.supervisor import http_ready, strangers_refused
from tests.support.certificates import Authority, Certificate, client_context, server_context
from tests.support.servers.process import free_port, running
from tests.support.wait import wait_until


@dataclass
class Listener:
    """A gunicorn with our worker class."""

    port: int
    pid: int
    ca: Authority
    certificate: Certificate
    notes: Path
    web: WebSettings

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def said(self, mine: Certificate | None = None, body: bytes = b"", **more: object) -> list[str]:
        """Scheme, subject, length of the body, process."""
        context = client_context(self.ca.file, mine)
        answer = httpx.post(f"{self.url}/say", content=body, verify=context, timeout=10)
        return answer.text.split("|")

    def connect(self, mine: Certificate | None = None) -> ssl.SSLSocket:
        """A connection behind its handshake."""
        plain = socket.create_connection(("127.0.0.1", self.port), 5)
        return client_context(self.ca.file, mine).wrap_socket(plain, server_hostname="localhost")

    def noted(self, word: str) -> bool:
        return self.notes.exists() and word in self.notes.read_text()


Start = Callable[..., AbstractContextManager[Listener]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start one with these settings."""
    ca = Authority(tmp_path / "ca")
    certificate = ca.issue("localhost")

    @contextmanager
    def started(**web: object) -> Iterator[Listener]:
        keys = {"tls_cert_file": certificate.cert, "tls_key_file": certificate.key, **web}
        if "tls_client_auth" in keys:
            keys["tls_client_ca_file"] = ca.file
        env = {f"CANALGATE_WEB__{name.upper()}": str(value) for name, value in keys.items()}
        port, notes = free_port(), tmp_path / "notes"
        worker, app = "gateway_web.gunicorn_worker.Worker", "tests.web.tls_app:app"
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "-k",
            worker,
            "-b",
            f"127.0.0.1:{port}",
            "--no-control-socket",
        ]
        with running(
            [*command, app], log=tmp_path / "log", env={**env, "NOTES": str(notes)}, remove="CANALGATE_"
        ) as process:
            settings = load(None, env).web
            found = Listener(port, process.popen.pid, ca, certificate, notes, settings)
            context = own_context(settings)
            assert context is not None
            ready = (
                strangers_refused("127.0.0.1", port, context)
                if settings.tls_client_auth == "required"
                else http_ready(f"https://127.0.0.1:{port}/say", tls=context)
            )
            wait_until(ready, timeout=20, description="the listener")
            yield found

    return started


def test_requests_come_over_tls_also_where_gunicorn_was_not_told(start: Start) -> None:
    """The settings say it: nothing is served in the clear. Large bodies come whole."""
    with start() as listener:
        assert listener.said(body=b"x" * 3_000_000)[:3] == ["https", "nobody", "3000000"]
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://localhost:{listener.port}/say", timeout=5)


def asked(sock: ssl.SSLSocket) -> bytes:
    """The subject that one more request on a connection comes from; empty where the connection has ended."""
    try:
        sock.sendall(b"GET /say HTTP/1.1\r\nHost: h\r\n\r\n")
        answer = b""
        while b"|0|" not in answer:
            if not (piece := sock.recv(65536)):
                return b""
            answer += piece
    except OSError:
        return b""
    return answer.partition(b"https|")[2].partition(b"|")[0]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_that_has_run_out_is_worth_nothing(
    start: Start, version: ssl.TLSVersion
) -> None:
    """Neither on a connection that was kept open, nor on one that goes on with a TLS session of before."""
    with start(tls_client_auth="optional") as listener:
        context = client_context(listener.ca.file, listener.ca.issue("alice", usage="client", days=4 / 86400))
        context.maximum_version = version

        def connected(session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
            plain = socket.create_connection(("127.0.0.1", listener.port), 5)
            return context.wrap_socket(plain, server_hostname="localhost", session=session)

        def refused() -> bool:
            try:
                with connected(kept.session) as other:
                    return not asked(other)
            except OSError:
                return True

        with connected() as kept:
            assert asked(kept) == b"CN=alice"
            wait_until(lambda: not asked(kept), timeout=15, description="the end of the connection")
            assert refused()
        assert "Socket error" not in listener.notes.with_name("log").read_text()


def test_no_ticket_brings_a_client_certificate_back(start: Start) -> None:
    """Where certificates are asked for, each connection shows its own; elsewhere tickets stay."""
    for keys, tickets in (({"tls_client_auth": "optional"}, False), ({}, True)):
        with start(**keys) as listener, listener.connect(listener.ca.issue("a", usage="client")) as sock:
            assert asked(sock)
            assert sock.session is not None
            assert sock.session.has_ticket is tickets


@pytest.mark.parametrize("auth", ["optional", "required"])
def test_a_client_certificate_that_is_good_names_its_subject(start: Start, auth: str, tmp_path: Path) -> None:
    """One that is not is refused in either case; none at all only where one is required."""
    with start(tls_client_auth=auth) as listener:
        mine = listener.ca.issue("alice", usage="client", organisation="Acme, Inc.")
        assert listener.said(mine)[1] == r"CN=alice,O=Acme\, Inc."
        for strange in (
            Authority(tmp_path / "x").issue("alice", usage="client"),
            listener.ca.issue("a", usage="client", days=-1),
        ):
            with pytest.raises(httpx.HTTPError):
                listener.said(strange)
        if auth == "required":
            with pytest.raises(httpx.HTTPError):
                listener.said()
        else:
            assert listener.said()[1] == "nobody"


def test_old_versions_are_refused(start: Start) -> None:
    """``tls_min_version``."""
    with start(tls_min_version="1.3") as listener:
        context = client_context(listener.ca.file)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{listener.url}/say", verify=context, timeout=5)
        assert listener.said()[0] == "https"


def test_who_shakes_no_hands_holds_up_nobody(start: Start) -> None:
    """A hundred silent connections, and half a hello: others are served at once, and these are closed in the end."""
    with start() as listener:
        silent = [socket.create_connection(("127.0.0.1", listener.port), 5) for _ in range(100)]
        silent[0].sendall(b"\x16\x03\x01\x02\x00")
        begun = time.monotonic()
        assert listener.said()[0] == "https"
        assert time.monotonic() - begun < 3
        for sock in silent:
            sock.settimeout(20)
            assert sock.recv(1) == b""
            sock.close()


def test_a_client_that_reads_nothing_is_cut_off(start: Start) -> None:
    """``web.write_timeout`` holds inside TLS."""
    with start(write_timeout=0.5) as listener:
        sock = listener.connect()
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n")
        wait_until(lambda: listener.noted("cut off"), timeout=15, description="the end of it")
        sock.close()


def test_a_request_that_drips_in_is_cut_off(start: Start) -> None:
    """``web.read_timeout`` holds inside TLS."""
    with start(read_timeout=0.5) as listener:
        sock = listener.connect()
        sock.sendall(b"POST /say HTTP/1.1\r\nHost: h\r\nContent-Le")
        sock.settimeout(10)
        begun = time.monotonic()
        while sock.recv(65536):
            pass
        assert time.monotonic() - begun < 5
        sock.close()


def test_so_is_one_whose_head_came_with_the_request_before(start: Start) -> None:
    """Nothing is read from the connection before its body."""
    head = b"POST /say HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"
    with start(read_timeout=0.5) as listener:
        sock = listener.connect()
        sock.sendall(head % 2 + b"{}" + head % 500)
        sock.settimeout(10)
        begun = time.monotonic()
        while sock.recv(65536):
            pass
        assert time.monotonic() - begun < 5
        sock.close()


def test_a_client_that_leaves_is_noticed(start: Start) -> None:
    """By the end of its TLS, which is a byte of something to whoever looks from outside."""
    with start() as listener:
        sock = listener.connect()
        sock.sendall(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"200 OK" in sock.recv(65536)
        sock.settimeout(0.2)
        with suppress(OSError):
            sock.unwrap()  # says goodbye, and leaves the connection itself open
        wait_until(lambda: listener.noted("left"), timeout=10, description="the look")
        sock.close()


def test_a_new_certificate_is_served_after_a_hup(start: Start) -> None:
    """By the process that is there: no connection ends for it. Until then the old one is, whatever the files say.

    A certificate that cannot be read changes nothing.
    """
    with start() as listener:
        old = listener.certificate
        before = listener.said()[3]
        new = listener.ca.issue("localhost")
        wanted = x509.load_pem_x509_certificate(new.cert.read_bytes()).serial_number
        os.replace(new.cert, old.cert)
        os.replace(new.key, old.key)
        assert served(listener) != wanted
        os.kill(listener.pid, signal.SIGHUP)
        wait_until(lambda: served(listener) == wanted, timeout=20, description="the new certificate")
        old.cert.write_text("no certificate")
        os.kill(listener.pid, signal.SIGHUP)
        wait_until(
            lambda: "certificate_refused" in listener.notes.with_name("log").read_text(),
            timeout=20,
            description="the refusal",
        )
        assert served(listener) == wanted
        assert listener.said()[3] == before


def test_programs_of_ours_trust_the_certificate_and_not_its_authority(tmp_path: Path) -> None:
    """Which stands behind it in the file, and signs for others too."""
    ca = Authority(tmp_path)
    ours, other = ca.issue("localhost"), ca.issue("localhost")
    for first in (ours.cert, ours.both):
        file = tmp_path / "chain.pem"
        file.write_bytes(first.read_bytes() + ca.file.read_bytes())
        context = own_context(WebSettings(tls_cert_file=str(file), tls_key_file=str(ours.key)))
        assert context is not None
        for certificate, trusted in ((ours, True), (other, False)):
            assert trusts(context, certificate) is trusted


def trusts(context: ssl.SSLContext, certificate: Certificate) -> bool:
    """Whether a handshake with a server of this certificate comes to its end; it is had in memory."""
    wires = [ssl.MemoryBIO() for _ in range(2)]
    ends = [
        context.wrap_bio(wires[0], wires[1]),
        server_context(certificate).wrap_bio(wires[1], wires[0], server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return True


def served(listener: Listener) -> int:
    with listener.connect() as sock:
        return x509.load_der_x509_certificate(sock.getpeercert(binary_form=True) or b"").serial_number


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"tls_key_file": "/k"}, "tls_cert_file"),
        ({"tls_client_auth": "required", "tls_client_ca_file": "/c"}, "tls_cert_file"),
        ({"tls_cert_file": "/c", "tls_client_auth": "required"}, "tls_client_ca_file"),
        ({"tls_cert_file": "/c", "tls_client_ca_file": "/c"}, "tls_client_auth"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys: dict[str, str], said: str) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigurationError, match=said):
        load(None, {f"CANALGATE_WEB__{name.upper()}": value for name, value in keys.items()})


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """The certificate's, the key's, the authorities'."""
    made = Authority(tmp_path).issue("localhost")
    gone = str(tmp_path / "gone.pem")
    for keys in (
        {"tls_cert_file": gone},
        {"tls_cert_file": str(made.cert), "tls_key_file": gone},
        {"tls_cert_file": str(made.both), "tls_client_ca_file": gone, "tls_client_auth": "required"},
    ):
        with pytest.raises(ConfigurationError, match=r"gone\.pem"):
            listener_context(WebSettings.model_validate(keys))


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (((("organizationName", "Acme"),), (("commonName", "alice"),)), "CN=alice,O=Acme"),
        (((("commonName", "a,O=Root"),),), r"CN=a\,O\=Root"),
        (((("commonName", " #x "),),), r"CN=\ #x\ "),
        (((("commonName", "a\nb\x00"),),), r"CN=a\0Ab\00"),
        (((("commonName", "a"), ("userId", "b")),), "CN=a+UID=b"),
        ((), ""),
    ],
)
def test_a_subject_cannot_pose_as_another(names: tuple[tuple[tuple[str, str], ...], ...], text: str) -> None:
    """What is inside a value stays inside (RFC 4514)."""
    assert subject_of(names) == text
