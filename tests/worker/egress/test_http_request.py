"""What a request says before its body: URLs of every form, and headers that cannot become something else."""

from __future__ import annotations

import base64

import pytest

from gateway_worker.egress.http_answers import seconds_of
from gateway_worker.egress.http_request import Fields, Origin, request_bytes
from gateway_worker.egress.link import LinkLost
from tests.support.aio import on_loop
from tests.support.servers.raw_http import RawConnection, ok, raw_server
from tests.worker.egress.http_clients import client_to, fetched

# -- URLs -----------------------------------------------------------------------------------------------

PLACES = {
    "http://host/mcp": ("host", 80, "/mcp", "host"),
    "https://host/mcp": ("host", 443, "/mcp", "host"),
    "http://host": ("host", 80, "/", "host"),
    "http://host?a=b": ("host", 80, "/?a=b", "host"),
    "HTTP://Host:8080/MCP": ("host", 8080, "/MCP", "host:8080"),
    "http://host:80/": ("host", 80, "/", "host"),
    "https://host:80/": ("host", 80, "/", "host:80"),
    "http://my_host-1.local./x": ("my_host-1.local.", 80, "/x", "my_host-1.local."),
    "http://127.0.0.1:9/": ("127.0.0.1", 9, "/", "127.0.0.1:9"),
    "http://[::1]/": ("::1", 80, "/", "[::1]"),
    "http://[2001:DB8::1]:8080/": ("2001:db8::1", 8080, "/", "[2001:db8::1]:8080"),
    "http://[fe80::1%25eth0]:8080/": ("fe80::1%eth0", 8080, "/", "[fe80::1]:8080"),
    "http://bücher.example/": ("xn--bcher-kva.example", 80, "/", "xn--bcher-kva.example"),
    "http://host/a b/ü/%20/%2F?q=ü &x=%26#part": (
        "host",
        80,
        "/a%20b/%C3%BC/%20/%2F?q=%C3%BC%20&x=%26",
        "host",
    ),
    "http://host/a\r\nX: y/": ("host", 80, "/aX:%20y/", "host"),
    "http://host/a\0b": ("host", 80, "/a%00b", "host"),
}


@pytest.mark.parametrize("url", PLACES)
def test_where_a_url_leads(url: str) -> None:
    """Host, port, request target and the value of Host; a fragment stays here, escapes stay as they are."""
    origin = Origin.of(url)
    assert (origin.host, origin.port, origin.target, origin.authority) == PLACES[url]
    assert origin.secure is url.startswith("https")
    assert origin.authorization is None


@pytest.mark.parametrize(
    "url",
    [
        *("http://", "http:///x", "http://ho st/", "http://host:port/", "http://host:70000/", "http://[::1/"),
        *(
            "http://[nonsense]/",
            "ftp://host/",
            "host/mcp",
            "",
            "http://a..b.example\u00fc/",
            "http://ho%0d%0ast/",
        ),
        *("http://" + "ü" * 70 + "/", "http://host\x7f/", "http://user@/", "http://a,b/"),
    ],
)
def test_a_url_that_leads_nowhere(url: str) -> None:
    """A typed error; nothing was sent."""
    with pytest.raises(LinkLost, match="valid URL") as lost:
        Origin.of(url)
    assert lost.value.unsent


@pytest.mark.parametrize(
    ("user", "pair"),
    [("u:p", "u:p"), ("u", "u:"), ("u%40x:p%3A%2F", "u@x:p:/"), ("ü:ß", "ü:ß"), (":p", ":p"), ("u:", "u:")],
)
def test_user_information_becomes_basic_credentials(user: str, pair: str) -> None:
    """Unescaped; it is no part of the host."""
    origin = Origin.of(f"http://{user}@host:81/x")
    assert (origin.host, origin.authority) == ("host", "host:81")
    assert origin.authorization is not None
    assert base64.b64decode(origin.authorization.removeprefix("Basic ")).decode() == pair


# -- headers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "\x1b[0m", "\x7f", "snow\u2603", "line\u2028end", "\ud800"],
)
def test_values_that_would_be_more_than_a_value(value: str) -> None:
    """Refused before anything is sent; the value, which may be a secret, is not shown.

    No claim is made that would let the call be tried again: it could not go better.
    """
    for make in (lambda: Fields({"X-Key": value}), lambda: Fields({}).extended({"X-Key": value})):
        with pytest.raises(LinkLost, match="X-Key") as lost:
            make()
        assert not lost.value.unsent
        assert value not in str(lost.value)


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a:", "a\r\nX-Evil", "ü", "a\0", "Content-Length", "transfer-encoding", "(x)"],
)
def test_names_that_are_none_or_not_ours_to_give(name: str) -> None:
    """Where a body ends is said by the client alone: else one request could hide in another."""
    with pytest.raises(LinkLost, match="cannot be sent"):
        Fields({name: "1"})


def test_later_headers_win_whatever_their_case() -> None:
    """Each name is sent once."""
    fields = Fields({"Accept": "a", "X": "1"}).extended({"ACCEPT": "b", "Y": "2"}).extended({"y": "3"})
    assert fields.text == "accept: b\r\nx: 1\r\ny: 3\r\n"
    assert fields.extended({}) is fields


def test_values_keep_their_bytes() -> None:
    """What HTTP can carry is carried: tabs, empty values, and bytes above ASCII."""
    head = request_bytes("GET", "/", Fields({"a": "x\ty", "b": "", "c": "caf\xe9"}), None)
    assert head == b"GET / HTTP/1.1\r\na: x\ty\r\nb: \r\nc: caf\xe9\r\n\r\n"


def test_no_body_is_not_an_empty_body() -> None:
    """A POST of nothing says so."""
    assert b"content-length" not in request_bytes("GET", "/", Fields({}), None)
    assert request_bytes("POST", "/", Fields({}), b"").endswith(b"content-length: 0\r\n\r\n")


async def head_of(path: str, headers: dict[str, str], user: str = "") -> dict[str, str]:
    """The head that a server sees, its first line under the empty name."""
    heads: list[str] = []

    async def look(connection: RawConnection) -> None:
        head, _ = await connection.request()
        heads.append(head)
        await connection.send(ok(b"{}"))

    async with (
        raw_server(look, name=f"{user}localhost") as server,
        client_to(server.url.removesuffix("/mcp") + path, headers) as client,
    ):
        await fetched(client)
    first, *lines = heads[0].removesuffix("\r\n\r\n").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    assert len({name for name, _ in pairs}) == len(pairs)
    return {"": first, **dict(pairs)}


@on_loop
async def test_what_a_server_sees() -> None:
    """The target, its own name, and what the tool's definition says; never a wish for compression."""
    head = await head_of("/a?b=c", {"X-Key": "k", "Accept-Encoding": "gzip"}, user="u:p@")
    assert head[""] == "POST /a?b=c HTTP/1.1"
    assert head["host"].startswith("localhost:")
    assert head["x-key"] == "k"
    assert head["accept-encoding"] == "identity"
    assert head["authorization"] == "Basic dTpw"
    assert head["user-agent"].startswith("canalgate/")
    assert head["content-length"] == "2"


@on_loop
async def test_a_definition_may_name_host_agent_and_credentials() -> None:
    """Behind a proxy the name may be another than that of the address; a header is more specific than a URL."""
    mine = {"Host": "inner.example", "User-Agent": "me", "Authorization": "Bearer t"}
    head = await head_of("/", mine, user="u:p@")
    assert (head["host"], head["user-agent"], head["authorization"]) == ("inner.example", "me", "Bearer t")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        (None, None),
        ("", None),
        ("-1", None),
        ("soon", None),
        ("9" * 5000, None),
        ("\u0663", None),
    ],
)
def test_only_a_number_of_seconds_is_waited_for(said: str | None, seconds: int | None) -> None:
    """Python refuses to read thousands of digits."""
    assert seconds_of(said) == seconds
